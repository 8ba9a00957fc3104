// The epilogue that every format's GPU kernels share: the same operations, in the same order, as the CPU's (base/epilogue-inl.h), four outputs
// of a row at a time. Compiled without contraction of multiplications and additions, so that results are bit-identical.
#ifndef TFCOMPRESS_BASE_CUDA_EPILOGUE_CUH_
#define TFCOMPRESS_BASE_CUDA_EPILOGUE_CUH_

#include "base/cuda_intrinsics.cuh"
#include "base/elementwise-inl.h"

namespace tfcompress {

// What follows the sums. Vectors belong to output 0.
struct CudaEpilogue {
  const float* scale = nullptr;  // [n] or null: ones
  const float* mean = nullptr;   // [n] or null: zeros
  const float* bias = nullptr;   // [n] or null: zeros
  Activation activation = Activation::kLinear;
  void* y = nullptr;
  ElementType y_type = ElementType::kFloat32;
  int64_t y_stride = 0;  // elements
  int64_t n = 0;
  bool y_aligned = false;  // four outputs from a multiple of four on are one store
  bool vectors_aligned = false;  // and four values of scale, mean and bias one load
};

namespace {

inline bool VectorsAligned(const float* scale, const float* mean, const float* bias) {
  return (reinterpret_cast<uintptr_t>(scale) | reinterpret_cast<uintptr_t>(mean) | reinterpret_cast<uintptr_t>(bias)) % 16 == 0;
}

// Rows of `stride` elements begin at multiples of what four elements take.
inline bool RowsAligned(const void* p, ElementType type, int64_t stride) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(4 * ElementBytes(type)) == 0 && stride % 4 == 0;
}

template <int kCount>
TFCOMPRESS_DEVICE void ApplyActivationTo(Activation activation, float (&v)[kCount]) {
  switch (activation) {
#define TFCOMPRESS_CASE(name)                                               \
  case Activation::name:                                                    \
    for (int i = 0; i < kCount; ++i) v[i] = Activate<Activation::name>(v[i]); \
    return
    TFCOMPRESS_CASE(kRelu);
    TFCOMPRESS_CASE(kRelu6);
    TFCOMPRESS_CASE(kLeakyRelu);
    TFCOMPRESS_CASE(kElu);
    TFCOMPRESS_CASE(kSelu);
    TFCOMPRESS_CASE(kGelu);
    TFCOMPRESS_CASE(kGeluTanh);
    TFCOMPRESS_CASE(kSilu);
    TFCOMPRESS_CASE(kSigmoid);
    TFCOMPRESS_CASE(kTanh);
    TFCOMPRESS_CASE(kSoftplus);
    TFCOMPRESS_CASE(kSoftsign);
    TFCOMPRESS_CASE(kExponential);
    TFCOMPRESS_CASE(kHardSigmoid);
    TFCOMPRESS_CASE(kHardSilu);
#undef TFCOMPRESS_CASE
    case Activation::kLinear:
    case Activation::kCount:
      return;
  }
}

// y[row, column + i] = v[i], of those outputs that exist. T: float, int32_t or the bits of 16-bit floats.
template <typename T>
TFCOMPRESS_DEVICE void StoreFour(const CudaEpilogue& e, int64_t row, int64_t column, const T (&v)[4]) {
  T* to = static_cast<T*>(e.y) + row * e.y_stride + column;
  if (e.y_aligned && column + 4 <= e.n) {
    if constexpr (sizeof(T) == 4) {
      StoreGlobal<4>(to, {{BitCast<uint32_t>(v[0]), BitCast<uint32_t>(v[1]), BitCast<uint32_t>(v[2]), BitCast<uint32_t>(v[3])}});
    } else {
      StoreGlobal<2>(to, {{v[0] | static_cast<uint32_t>(v[1]) << 16, v[2] | static_cast<uint32_t>(v[3]) << 16}});
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i < e.n) to[i] = v[i];
  }
}

// Four values of one of the vectors; those beyond n are 0.
TFCOMPRESS_DEVICE void LoadVector(const CudaEpilogue& e, const float* vector, int64_t column, float (&v)[4]) {
  if (e.vectors_aligned && column + 4 <= e.n) {
    const Words4 words = LoadWordsReadOnly<4>(vector + column);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = BitCast<float>(words.v[i]);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = column + i < e.n ? LoadReadOnly(vector + column + i) : 0.0f;
}

// y[row, column + i] = activation(row_scale * (scale * sums[i] + mean * row_sum) + bias), i < 4; column is a multiple of 4.
TFCOMPRESS_DEVICE void FinishFour(const CudaEpilogue& e, int64_t row, int64_t column, const float (&sums)[4], float row_scale, float row_sum) {
  float v[4] = {sums[0], sums[1], sums[2], sums[3]};
  float vector[4];
  if (e.scale != nullptr) {
    LoadVector(e, e.scale, column, vector);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = vector[i] * sums[i];
  }
  if (e.mean != nullptr) {
    LoadVector(e, e.mean, column, vector);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] += vector[i] * row_sum;
  }
  if (e.scale != nullptr) {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] *= row_scale;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) vector[i] = 0.0f;
  if (e.bias != nullptr) LoadVector(e, e.bias, column, vector);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] += vector[i];
  ApplyActivationTo(e.activation, v);
  if (e.y_type == ElementType::kFloat32) return StoreFour(e, row, column, v);
  uint16_t h[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) h[i] = e.y_type == ElementType::kBFloat16 ? ToBFloat16(v[i]) : ToFloat16(v[i]);
  StoreFour(e, row, column, h);
}

// The same for one output, for formats whose outputs do not lie beside each other.
TFCOMPRESS_DEVICE void FinishOne(const CudaEpilogue& e, int64_t row, int64_t column, float sum, float row_scale) {
  float v[1] = {sum};
  if (e.scale != nullptr) v[0] = LoadReadOnly(e.scale + column) * sum * row_scale;
  v[0] += e.bias != nullptr ? LoadReadOnly(e.bias + column) : 0.0f;
  ApplyActivationTo(e.activation, v);
  const int64_t at = row * e.y_stride + column;
  if (e.y_type == ElementType::kFloat32) {
    static_cast<float*>(e.y)[at] = v[0];
  } else {
    static_cast<uint16_t*>(e.y)[at] = e.y_type == ElementType::kBFloat16 ? ToBFloat16(v[0]) : ToFloat16(v[0]);
  }
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_CUDA_EPILOGUE_CUH_
