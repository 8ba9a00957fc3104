// Rows of what the windows of a convolution see, and the gradient of that.
#include "base/patches.h"

#include "base/cuda_intrinsics.cuh"

namespace tfcompress {
namespace {

constexpr int kPatchesThreads = 256;
constexpr int kPatchesWarps = kPatchesThreads / 32;

// A warp for a row; lanes copy neighbouring units of kWords words, or of 2 bytes (kWords 0), which lie beside each other in x too within the channels
// of a pixel. `channels`, of windows and all offsets, counts units.
template <int kWords>
TFCOMPRESS_GLOBAL(kPatchesThreads, 4)
PatchesKernel(Windows v, const void* x, int64_t first, int64_t rows, void* y) {
  const int64_t r = BlockIndex() * kPatchesWarps + ThreadIndex() / 32;
  if (r >= rows) return;
  const int64_t index = first + r;
  const int64_t ow = index % v.w.out, oh = index / v.w.out % v.h.out, b = index / v.w.out / v.h.out;
  const int64_t h0 = oh * v.h.stride - v.h.pad, w0 = ow * v.w.stride - v.w.pad;
  const int64_t row = v.h.kernel * v.w.kernel * v.channels;
  const int64_t image = b * v.h.in;
  // Where the lane is, moved on by 32 units without a division.
  const int64_t lane = ThreadIndex() % 32;
  int64_t c = lane % v.channels, j = lane / v.channels % v.w.kernel, i = lane / v.channels / v.w.kernel;
  const int64_t step_c = 32 % v.channels, step_j = 32 / v.channels % v.w.kernel, step_i = 32 / v.channels / v.w.kernel;
  for (int64_t at = lane; at < row; at += 32) {
    const int64_t h = h0 + i * v.h.dilation, w = w0 + j * v.w.dilation;
    const bool inside = h >= 0 && h < v.h.in && w >= 0 && w < v.w.in;
    const int64_t from = ((image + h) * v.w.in + w) * v.channels + c;
    if constexpr (kWords == 0) {
      static_cast<uint16_t*>(y)[r * row + at] = inside ? LoadReadOnly(static_cast<const uint16_t*>(x) + from) : uint16_t{0};
    } else {
      Words<kWords> words = {};
      if (inside) words = LoadWordsReadOnly<kWords>(static_cast<const uint32_t*>(x) + from * kWords);
      StoreGlobal<kWords>(static_cast<uint32_t*>(y) + (r * row + at) * kWords, words);
    }
    c += step_c;
    j += step_j;
    i += step_i;
    if (c >= v.channels) {
      c -= v.channels;
      ++j;
    }
    if (j >= v.w.kernel) {
      j -= v.w.kernel;
      ++i;
    }
  }
}

// A thread for an element of dx: it adds up all places of dy that saw it. The last rows and columns of the window first, so that windows come in order.
TFCOMPRESS_GLOBAL(kPatchesThreads, 4)
PatchesGradientKernel(Windows v, const float* dy, int64_t first, int64_t rows, int64_t elements, float* dx) {
  const int64_t element = BlockIndex() * kPatchesThreads + ThreadIndex();
  if (element >= elements) return;
  const int64_t c = element % v.channels, pixel = element / v.channels;
  const int64_t w = pixel % v.w.in, h = pixel / v.w.in % v.h.in, b = pixel / v.w.in / v.h.in;
  const int64_t row = v.h.kernel * v.w.kernel * v.channels;
  float sum = 0.0f;
  for (int64_t i = v.h.kernel - 1; i >= 0; --i) {
    const int64_t oh = h + v.h.pad - i * v.h.dilation;  // times the stride
    if (oh < 0 || oh % v.h.stride != 0 || oh / v.h.stride >= v.h.out) continue;
    for (int64_t j = v.w.kernel - 1; j >= 0; --j) {
      const int64_t ow = w + v.w.pad - j * v.w.dilation;
      if (ow < 0 || ow % v.w.stride != 0 || ow / v.w.stride >= v.w.out) continue;
      const int64_t r = (b * v.h.out + oh / v.h.stride) * v.w.out + ow / v.w.stride - first;
      if (r >= 0 && r < rows) sum += LoadReadOnly(dy + r * row + (i * v.w.kernel + j) * v.channels + c);
    }
  }
  dx[element] = sum;
}

}  // namespace

std::string CudaPatches(const Windows& windows, const void* x, int64_t first, int64_t rows, int element_bytes, void* y, void* stream) {
  if (rows == 0 || windows.row() == 0) return "";
  // The largest unit that a pixel's channels are a multiple of, and both arrays begin at one of.
  const int64_t pixel_bytes = windows.channels * element_bytes;
  const uint64_t places = reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y) | static_cast<uint64_t>(pixel_bytes);
  const int64_t unit = places % 16 == 0 ? 16 : places % 8 == 0 ? 8 : places % 4 == 0 ? 4 : 2;
  const auto kernel = unit == 16 ? PatchesKernel<4> : unit == 8 ? PatchesKernel<2> : unit == 4 ? PatchesKernel<1> : PatchesKernel<0>;
  Windows in_units = windows;
  in_units.channels = pixel_bytes / unit;
  return LaunchKernel("patches", kernel, (rows + kPatchesWarps - 1) / kPatchesWarps, kPatchesThreads, 0, stream, in_units, x, first, rows, y);
}

std::string CudaPatchesGradient(const Windows& windows, const float* dy, int64_t first, int64_t rows, float* dx, void* stream) {
  const int64_t elements = windows.batch * windows.h.in * windows.w.in * windows.channels;
  if (elements == 0) return "";
  return LaunchKernel("gradient of patches", PatchesGradientKernel, (elements + kPatchesThreads - 1) / kPatchesThreads, kPatchesThreads, 0, stream,
                      windows, dy, first, rows, elements, dx);
}

}  // namespace tfcompress
