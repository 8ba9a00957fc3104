// Quantisation of activations, row by row: x_q = clamp(round to nearest even of x * (1 / x_scale), -127, 127). The same arithmetic for every
// format and on every tier, so that integer results are bit-identical. See base/elementwise-inl.h for why everything has
// internal linkage.
#ifndef TFCOMPRESS_BASE_QUANTIZE_INL_H_
#define TFCOMPRESS_BASE_QUANTIZE_INL_H_

#include <cstdint>

#include "base/elementwise-inl.h"
#include "base/quantize.h"

namespace tfcompress {
namespace {

constexpr int64_t kConvertChunk = 256;  // elements of bfloat16 or float16 that are widened at a time, on the stack

// Of |x| as bits: integer order is float order, infinities and NaNs come last, and no denormal is ever an operand.
TFCOMPRESS_INLINE uint32_t MaxMagnitudeBits(const float* x, int64_t n, uint32_t so_far) {
  int32_t most = static_cast<int32_t>(so_far);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t bits = BitCast<int32_t>(x[i]) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  return static_cast<uint32_t>(most);
}

// Writes n quantised values + kZeroPoint and returns the sum of the values, modulo 2^32. What comes of a NaN does not matter: the caller
// voids its row. kClamp: x may be out of range; the bounds are applied to the magnitude as an integer, since compilers turn two float
// comparisons into a dozen comparisons and blends, three times as slow. Without it |x * inverse_scale| rounds to 127 at most.
template <bool kClamp, int kZeroPoint, typename XElement>
TFCOMPRESS_INLINE uint32_t QuantizeValues(const float* __restrict__ x, int64_t n, float inverse_scale, XElement* __restrict__ q) {
  constexpr int32_t kLargest = 0x42fe0000;  // the bits of 127.0f
  uint32_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    float scaled = x[i] * inverse_scale;
    if (kClamp) {
      const int32_t bits = BitCast<int32_t>(scaled);
      const int32_t magnitude = bits & 0x7fffffff;
      const int32_t bounded = magnitude < kLargest ? magnitude : kLargest;
      scaled = BitCast<float>(bounded | (bits & static_cast<int32_t>(0x80000000u)));
    }
    const uint32_t value = BitCast<uint32_t>(scaled + kRoundMagic) - static_cast<uint32_t>(kRoundMagicBits);
    q[i] = static_cast<XElement>(static_cast<int32_t>(value + static_cast<uint32_t>(kZeroPoint)));
    sum += value;
  }
  return sum;
}

// Calls f(pointer to float32 values, first of them, how many) over a row, chunk by chunk where it must be converted first.
template <typename F>
TFCOMPRESS_INLINE void ForEachChunk(const void* row, ElementType type, int64_t k, const F& f) {
  if (type == ElementType::kFloat32) {
    f(static_cast<const float*>(row), int64_t{0}, k);
    return;
  }
  float chunk[kConvertChunk];
  for (int64_t i = 0; i < k; i += kConvertChunk) {
    const int64_t n = k - i < kConvertChunk ? k - i : kConvertChunk;
    LoadAsFloat(static_cast<const char*>(row) + i * 2, type, chunk, n);
    f(chunk, i, n);
  }
}

// Quantises one row of k activations. x_scale > 0: the given scale, values beyond it saturate, a NaN voids the row. x_scale = 0: the row's
// largest magnitude becomes 127; a NaN or an infinity voids the row, and one below 2^-100 counts as zero. kZeroPoint is added to what is
// written, not to the sum.
template <int kZeroPoint, typename XElement>
TFCOMPRESS_INLINE RowScale QuantizeRow(const void* x, ElementType x_type, int64_t k, float x_scale, XElement* q) {
  uint32_t most = 0;
  ForEachChunk(x, x_type, k, [&](const float* v, int64_t, int64_t n) { most = MaxMagnitudeBits(v, n, most); });
  constexpr uint32_t kInfinity = 0x7f800000u;
  constexpr uint32_t kTiny = (127u - 100u) << 23;  // 2^-100
  const float nan = BitCast<float>(0x7fc00000u);
  const bool clamp = x_scale > 0.0f;
  float scale, inverse_scale;
  if (clamp) {
    scale = most > kInfinity ? nan : x_scale;
    inverse_scale = 1.0f / x_scale;
  } else if (most >= kInfinity) {
    scale = nan;
    inverse_scale = 0.0f;
  } else if (most < kTiny) {
    scale = 0.0f;
    inverse_scale = 0.0f;
  } else {
    scale = BitCast<float>(most) / 127.0f;
    inverse_scale = 127.0f / BitCast<float>(most);
  }
  uint32_t sum = 0;
  ForEachChunk(x, x_type, k, [&](const float* v, int64_t i, int64_t n) {
    sum += clamp ? QuantizeValues<true, kZeroPoint>(v, n, inverse_scale, q + i)
                 : QuantizeValues<false, kZeroPoint>(v, n, inverse_scale, q + i);
  });
  // What is summed with a NaN may be so large that its multiples overflow.
  return {scale, scale == scale ? static_cast<int32_t>(sum) : 0};
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_QUANTIZE_INL_H_
