// What the windows of a convolution see, as rows of a matrix: where each row's elements lie in x. Format-independent, copies only.
//
//     patches[r, (i * kernel_w + j) * channels + c] = x[b, oh * stride_h - pad_h + i * dilation_h, ow * stride_w - pad_w + j * dilation_w, c]
//
// for window first + r = (b * out_h + oh) * out_w + ow; zero where that lies outside of x. A caller makes a block of rows at a time.
#ifndef TFCOMPRESS_BASE_PATCHES_H_
#define TFCOMPRESS_BASE_PATCHES_H_

#include <cstdint>
#include <string>

namespace tfcompress {

struct Axis {
  int64_t in = 0, out = 0, kernel = 1, stride = 1, dilation = 1, pad = 0;
};

struct Windows {
  int64_t batch = 0, channels = 0;
  Axis h, w;
  int64_t count() const { return batch * h.out * w.out; }
  int64_t row() const { return h.kernel * w.kernel * channels; }
};

// On a CUDA device; pointers are the device's. Empty, or what went wrong with a launch.
// y [rows, windows.row()], elements of 2 or 4 bytes, from x [batch, h.in, w.in, channels].
std::string CudaPatches(const Windows& windows, const void* x, int64_t first, int64_t rows, int element_bytes, void* y, void* stream);
// dx [batch, h.in, w.in, channels] = the sum of dy [rows, windows.row()] where x is seen, in the order of the windows, as on the CPU.
std::string CudaPatchesGradient(const Windows& windows, const float* dy, int64_t first, int64_t rows, float* dx, void* stream);

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_PATCHES_H_
