// The body of every depthwise convolution; an instruction-set file says how many floats a register holds. Everything has internal linkage: see
// base/elementwise-inl.h.
//
// Loop order: an output row's pixels from left to right, kPixels at a time, all channels of each, so that input lines are read in order and stay in
// L1 from tap to tap. A tile holds the sums of kPixels pixels and kRegs registers of channels; each tap's weights are loaded once for all of them.
#ifndef TFCOMPRESS_BASE_DEPTHWISE_INL_H_
#define TFCOMPRESS_BASE_DEPTHWISE_INL_H_

#include "base/depthwise.h"
#include "base/elementwise-inl.h"

namespace tfcompress {
namespace {

// kLanes floats as compilers know them: any number of registers of the machine.
template <int kLanes>
struct FloatsOf {
  typedef float Type __attribute__((vector_size(kLanes * sizeof(float))));
};
template <>
struct FloatsOf<1> {
  typedef float Type;
};

// The taps of a window that lie in x.
struct Taps {
  int64_t i_begin, i_end, j_begin, j_end;
};

// First and last tap of one axis for a window that begins at `at`, which may be negative.
TFCOMPRESS_INLINE void TapsInside(const Axis& axis, int64_t at, int64_t* begin, int64_t* end) {
  *begin = at >= 0 ? 0 : (-at + axis.dilation - 1) / axis.dilation;
  const int64_t room = axis.in - at;  // offsets below it lie in x
  *end = room <= 0 ? 0 : Min(axis.kernel, (room + axis.dilation - 1) / axis.dilation);
  if (*begin > *end) *begin = *end;
}

// kPixels neighbours, channels [c, c + kRegs * kLanes). `first` is what the first tap of the first pixel sees.
template <int kLanes, int kPixels, int kRegs>
TFCOMPRESS_INLINE void DepthwiseTile(const DepthwiseArgs& args, const float* first, const Taps& taps, int64_t c, float* y) {
  using V = typename FloatsOf<kLanes>::Type;
  const Windows& v = args.windows;
  const int64_t pixel = v.w.stride * v.channels;
  V sums[kPixels][kRegs];
  TFCOMPRESS_UNROLL
  for (int p = 0; p < kPixels; ++p) {
    TFCOMPRESS_UNROLL
    for (int r = 0; r < kRegs; ++r) sums[p][r] = V{};
  }
  for (int64_t i = taps.i_begin; i < taps.i_end; ++i) {
    for (int64_t j = taps.j_begin; j < taps.j_end; ++j) {
      const float* w = args.kernel + (i * v.w.kernel + j) * v.channels + c;
      const float* x = first + ((i - taps.i_begin) * v.h.dilation * v.w.in + (j - taps.j_begin) * v.w.dilation) * v.channels + c;
      V weights[kRegs];
      TFCOMPRESS_UNROLL
      for (int r = 0; r < kRegs; ++r) __builtin_memcpy(&weights[r], w + r * kLanes, sizeof(V));
      TFCOMPRESS_UNROLL
      for (int p = 0; p < kPixels; ++p) {
        TFCOMPRESS_UNROLL
        for (int r = 0; r < kRegs; ++r) {
          V inputs;
          __builtin_memcpy(&inputs, x + p * pixel + r * kLanes, sizeof(V));
          sums[p][r] += inputs * weights[r];
        }
      }
    }
  }
  TFCOMPRESS_UNROLL
  for (int r = 0; r < kRegs; ++r) {
    V bias = {};
    if (args.bias != nullptr) __builtin_memcpy(&bias, args.bias + c + r * kLanes, sizeof(V));
    TFCOMPRESS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      const V sum = sums[p][r] + bias;
      __builtin_memcpy(y + p * v.channels + c + r * kLanes, &sum, sizeof(V));
    }
  }
}

// All channels of kPixels pixels. The last registers overlap those before them, where the channels are no multiple.
template <int kLanes, int kPixels>
void DepthwisePixels(const DepthwiseArgs& args, const float* first, const Taps& taps, float* y) {
  constexpr int kRegs = 2;
  const int64_t channels = args.windows.channels;
  int64_t c = 0;
  for (; c + kRegs * kLanes <= channels; c += kRegs * kLanes) DepthwiseTile<kLanes, kPixels, kRegs>(args, first, taps, c, y);
  if (c == channels) return;
  if (channels < kLanes) {
    for (; c < channels; ++c) DepthwiseTile<1, kPixels, 1>(args, first, taps, c, y);
    return;
  }
  if (c + kLanes < channels) DepthwiseTile<kLanes, kPixels, 1>(args, first, taps, c, y);
  DepthwiseTile<kLanes, kPixels, 1>(args, first, taps, channels - kLanes, y);
}

template <int kLanes>
void DepthwiseRowsHere(const DepthwiseArgs& args, int64_t begin, int64_t end) {
  constexpr int kPixels = 4;
  const Windows& v = args.windows;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / v.h.out, h0 = row % v.h.out * v.h.stride - v.h.pad;
    float* y = args.y + row * v.w.out * v.channels;
    Taps taps;
    TapsInside(v.h, h0, &taps.i_begin, &taps.i_end);
    for (int64_t ow = 0; ow < v.w.out;) {
      const int64_t w0 = ow * v.w.stride - v.w.pad;
      TapsInside(v.w, w0, &taps.j_begin, &taps.j_end);
      const bool any = taps.i_begin < taps.i_end && taps.j_begin < taps.j_end;
      const int64_t h = h0 + taps.i_begin * v.h.dilation, w = w0 + taps.j_begin * v.w.dilation;
      const float* first = any ? args.x + ((b * v.h.in + h) * v.w.in + w) * v.channels : args.x;
      const bool inner = w0 >= 0 && w0 + (kPixels - 1) * v.w.stride + (v.w.kernel - 1) * v.w.dilation < v.w.in;
      const int64_t pixels = inner && ow + kPixels <= v.w.out ? kPixels : 1;
      float* to = y + ow * v.channels;
      if (pixels == kPixels) {
        DepthwisePixels<kLanes, kPixels>(args, first, taps, to);
      } else {
        DepthwisePixels<kLanes, 1>(args, first, taps, to);
      }
      ApplyActivation(args.activation, to, pixels * v.channels);
      ow += pixels;
    }
  }
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_DEPTHWISE_INL_H_
