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
};

namespace {

// Rows of `stride` elements begin at multiples of what four elements take.
inline bool RowsAligned(const void* p, ElementType type, int64_t stride) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(4 * ElementBytes(type)) == 0 && stride % 4 == 0;
}

TFCOMPRESS_DEVICE void ActivateFour(Activation activation, float (&v)[4]) {
  switch (activation) {
#define TFCOMPRESS_CASE(name)                                               \
  case Activation::name:                                                    \
    for (int i = 0; i < 4; ++i) v[i] = Activate<Activation::name>(v[i]); \
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

template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T v[4];
};

// y[row, column + i] = v[i], of those outputs that exist.
template <typename T>
TFCOMPRESS_DEVICE void StoreFour(const CudaEpilogue& e, int64_t row, int64_t column, const T (&v)[4]) {
  T* to = static_cast<T*>(e.y) + row * e.y_stride + column;
  if (e.y_aligned && column + 4 <= e.n) {
    *reinterpret_cast<Four<T>*>(to) = {{v[0], v[1], v[2], v[3]}};
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (column + i < e.n) to[i] = v[i];
  }
}

// y[row, column + i] = activation(row_scale * (scale * sums[i] + mean * row_sum) + bias), i < 4; column is a multiple of 4.
TFCOMPRESS_DEVICE void FinishFour(const CudaEpilogue& e, int64_t row, int64_t column, const float (&sums)[4], float row_scale, float row_sum) {
  float v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[i] = sums[i];
    if (column + i >= e.n) continue;
    if (e.scale != nullptr) v[i] = LoadReadOnly(e.scale + column + i) * sums[i];
    if (e.mean != nullptr) v[i] += LoadReadOnly(e.mean + column + i) * row_sum;
    if (e.scale != nullptr) v[i] *= row_scale;
    v[i] += e.bias != nullptr ? LoadReadOnly(e.bias + column + i) : 0.0f;
  }
  ActivateFour(e.activation, v);
  if (e.y_type == ElementType::kFloat32) return StoreFour(e, row, column, v);
  uint16_t h[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) h[i] = e.y_type == ElementType::kBFloat16 ? ToBFloat16(v[i]) : ToFloat16(v[i]);
  StoreFour(e, row, column, h);
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_CUDA_EPILOGUE_CUH_
