// The epilogue that every format shares: scale, mean, bias, activation, conversion to the output's type. See base/elementwise-inl.h for
// why everything has internal linkage.
#ifndef TFCOMPRESS_BASE_EPILOGUE_INL_H_
#define TFCOMPRESS_BASE_EPILOGUE_INL_H_

#include <cstdint>

#include "base/elementwise-inl.h"

namespace tfcompress {
namespace {

// Outputs that one call of FinishRow takes at most.
constexpr int64_t kEpilogueWidth = 64;

// What follows the sums. The vectors belong to the first output of the call.
struct Epilogue {
  const float* scale;  // or null: ones
  const float* mean;   // or null: zeros
  const float* bias;   // or null: zeros
  Activation activation;
  ElementType y_type;
};

alignas(64) constexpr float kZeroBias[kEpilogueWidth] = {};

// v = row_scale * (scale * sum + mean * row_sum) + bias, for n outputs; max(v, 0) with kRelu.
template <bool kScale, bool kMean, bool kRelu>
TFCOMPRESS_INLINE void ScaleAndAdd(const Epilogue& epilogue, const float* __restrict__ sums, float row_scale, float row_sum,
                                   float* __restrict__ v, int64_t n) {
  const float* __restrict__ scale = epilogue.scale;
  const float* __restrict__ mean = epilogue.mean;
  const float* __restrict__ bias = epilogue.bias != nullptr ? epilogue.bias : kZeroBias;
  for (int64_t i = 0; i < n; ++i) {
    float value = kScale ? scale[i] * sums[i] : sums[i];
    if (kMean) value += mean[i] * row_sum;
    if (kScale) value *= row_scale;
    value += bias[i];
    v[i] = kRelu && value < 0.0f ? 0.0f : value;
  }
}

template <bool kRelu>
TFCOMPRESS_INLINE void ScaleAndAddAny(const Epilogue& epilogue, const float* sums, float row_scale, float row_sum, float* v, int64_t n) {
  if (epilogue.mean != nullptr) return ScaleAndAdd<true, true, kRelu>(epilogue, sums, row_scale, row_sum, v, n);
  if (epilogue.scale != nullptr) return ScaleAndAdd<true, false, kRelu>(epilogue, sums, row_scale, row_sum, v, n);
  ScaleAndAdd<false, false, kRelu>(epilogue, sums, row_scale, row_sum, v, n);
}

// y[i] = activation(row_scale * (scale[i] * sums[i] + mean[i] * row_sum) + bias[i]) as y's type, for n <= kEpilogueWidth outputs. Passes
// over the values cost more than the arithmetic: what is common, float32 without an activation or with relu, is one pass.
TFCOMPRESS_INLINE void FinishRow(const Epilogue& epilogue, const float* sums, float row_scale, float row_sum, void* y, int64_t n) {
  const bool relu = epilogue.activation == Activation::kRelu;
  if (epilogue.y_type == ElementType::kFloat32 && (relu || epilogue.activation == Activation::kLinear)) {
    float* to = static_cast<float*>(y);
    if (relu) return ScaleAndAddAny<true>(epilogue, sums, row_scale, row_sum, to, n);
    return ScaleAndAddAny<false>(epilogue, sums, row_scale, row_sum, to, n);
  }
  float v[kEpilogueWidth];
  ScaleAndAddAny<false>(epilogue, sums, row_scale, row_sum, v, n);
  ApplyActivation(epilogue.activation, v, n);
  StoreFromFloat(v, y, epilogue.y_type, n);
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_EPILOGUE_INL_H_
