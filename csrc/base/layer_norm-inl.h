// The body of every layer normalisation: plain loops, which the including instruction-set file has vectorised. Everything has internal linkage:
// see base/elementwise-inl.h.
#ifndef TFCOMPRESS_BASE_LAYER_NORM_INL_H_
#define TFCOMPRESS_BASE_LAYER_NORM_INL_H_

#include "base/elementwise-inl.h"
#include "base/layer_norm.h"

namespace tfcompress {
namespace {

// Features that are converted at a time where x is no float32; they stay in L1 between.
constexpr int64_t kNormChunk = 512;
// Sums beside each other: the order of additions, and with it the result, is the same for registers of 4, 8 and 16 floats.
constexpr int kNormSums = 32;

// Calls f(first, values, n) for the features of a row, as float32, from left to right.
template <typename F>
TFCOMPRESS_INLINE void ForFeatures(const LayerNormArgs& args, const char* row, const F& f) {
  if (args.type == ElementType::kFloat32) return f(0, reinterpret_cast<const float*>(row), args.features);
  float values[kNormChunk];
  for (int64_t i = 0; i < args.features; i += kNormChunk) {
    const int64_t n = Min(kNormChunk, args.features - i);
    LoadAsFloat(row + i * ElementBytes(args.type), args.type, values, n);
    f(i, values, n);
  }
}

// The sum of f(x) over a row.
template <typename F>
TFCOMPRESS_INLINE float RowSum(const LayerNormArgs& args, const char* row, const F& f) {
  float sums[kNormSums] = {};
  ForFeatures(args, row, [&](int64_t, const float* x, int64_t n) {
    int64_t i = 0;
    for (; i + kNormSums <= n; i += kNormSums) {
      for (int j = 0; j < kNormSums; ++j) sums[j] += f(x[i + j]);
    }
    for (int j = 0; i < n; ++i, ++j) sums[j] += f(x[i]);
  });
  for (int width = kNormSums / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) sums[j] += sums[j + width];
  }
  return sums[0];
}

// y[i] = (x[i] - mean) * inverse * gamma[i] + beta[i]
template <bool kGamma, bool kBeta>
TFCOMPRESS_INLINE void Normalise(const float* x, float mean, float inverse, const float* gamma, const float* beta, float* y, int64_t n) {
#pragma GCC ivdep  // y may be x
  for (int64_t i = 0; i < n; ++i) {
    float value = (x[i] - mean) * inverse;
    if (kGamma) value *= gamma[i];
    if (kBeta) value += beta[i];
    y[i] = value;
  }
}

template <bool kGamma, bool kBeta>
void LayerNormRow(const LayerNormArgs& args, int64_t row) {
  const int64_t bytes = ElementBytes(args.type);
  const char* x = static_cast<const char*>(args.x) + row * args.features * bytes;
  char* y = static_cast<char*>(args.y) + row * args.features * bytes;
  const auto count = static_cast<float>(args.features);
  const float mean = RowSum(args, x, [](float v) { return v; }) / count;
  const float variance = RowSum(args, x, [mean](float v) { return (v - mean) * (v - mean); }) / count;
  const float inverse = 1.0f / __builtin_sqrtf(variance + args.epsilon);
  ForFeatures(args, x, [&](int64_t first, const float* values, int64_t n) {
    const float* gamma = kGamma ? args.gamma + first : nullptr;
    const float* beta = kBeta ? args.beta + first : nullptr;
    if (args.type == ElementType::kFloat32)
      return Normalise<kGamma, kBeta>(values, mean, inverse, gamma, beta, reinterpret_cast<float*>(y), n);
    float result[kNormChunk];
    Normalise<kGamma, kBeta>(values, mean, inverse, gamma, beta, result, n);
    StoreFromFloat(result, y + first * bytes, args.type, n);
  });
}

void LayerNormRowsHere(const LayerNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    if (args.gamma != nullptr && args.beta != nullptr) {
      LayerNormRow<true, true>(args, row);
    } else if (args.gamma != nullptr) {
      LayerNormRow<true, false>(args, row);
    } else if (args.beta != nullptr) {
      LayerNormRow<false, true>(args, row);
    } else {
      LayerNormRow<false, false>(args, row);
    }
  }
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_LAYER_NORM_INL_H_
