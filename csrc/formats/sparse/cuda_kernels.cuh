// What the GPU kernels for pruned weights share: the arguments of every launch, where a panel's steps and outputs are, and what follows the sums.
#ifndef TFCOMPRESS_FORMATS_SPARSE_CUDA_KERNELS_CUH_
#define TFCOMPRESS_FORMATS_SPARSE_CUDA_KERNELS_CUH_

#include "base/cuda_epilogue.cuh"
#include "base/cuda_intrinsics.cuh"
#include "base/cuda_quantize.cuh"
#include "formats/sparse/cuda.h"
#include "formats/sparse/kernels.h"

namespace tfcompress::sparse {

// One multiplication on the device.
struct Problem {
  Matrix matrix;
  int64_t extent = 0;              // activations of a row that windows reach
  int64_t last_window = 0;
  CudaRows x;                      // float values
  uint8_t* x_q = nullptr;          // [m, x_q_stride]: rows that are quantised (int8 values), or rounded for tensor cores
  int64_t x_q_stride = 0;          // bytes
  const RowScale* row_scales = nullptr;
  void* partial_sums = nullptr;    // [splits, m, partial_stride] or null: K isn't split
  int64_t partial_stride = 0;
  CudaEpilogue epilogue;
};

// Of float values rows are rounded first; quantised ones must be there.
std::string LaunchTensor(const Problem& p, const TensorPlan& plan, const CudaDevice& device, void* stream);

namespace {

// How values of a type are multiplied: activations and sums are 4 bytes, float or int32.
template <Values kValues>
struct Types {
  static constexpr int kEntries = static_cast<int>(Entries(kValues));
  static constexpr int64_t kStride = Stride(kValues);
  static constexpr bool kInteger = kValues == Values::kInt8;
};
template <Values kValues>
using Sum = std::conditional_t<Types<kValues>::kInteger, int32_t, float>;

TFCOMPRESS_DEVICE float MultiplyAdd(float a, float b, float c) { return FusedMultiplyAdd(a, b, c); }
TFCOMPRESS_DEVICE int32_t MultiplyAdd(int32_t a, int32_t b, int32_t c) { return a * b + c; }

// Entry e of a lane's word of values.
template <Values kValues>
TFCOMPRESS_DEVICE Sum<kValues> ValueOf(uint32_t word, int e) {
  if constexpr (kValues == Values::kFloat32) {
    return BitCast<float>(word);
  } else if constexpr (kValues == Values::kBFloat16) {
    return BitCast<float>(e == 0 ? word << 16 : word & 0xffff0000u);
  } else {
    return static_cast<int8_t>(word >> (8 * e));
  }
}

// The steps of a panel, within those that there are.
struct Steps {
  int64_t begin, end;
};
TFCOMPRESS_DEVICE Steps StepsOf(const Problem& p, int64_t panel) {
  const auto clamp = [&](int64_t v) { return v < 0 ? 0 : v > p.matrix.steps ? p.matrix.steps : v; };
  const int64_t begin = clamp(LoadReadOnly(p.matrix.panels + panel)), end = clamp(LoadReadOnly(p.matrix.panels + panel + 1));
  return {begin, end < begin ? begin : end};
}

// Which output a lane computes, or -1.
TFCOMPRESS_DEVICE int64_t OutputOf(const Problem& p, int64_t panel, int lane) {
  const int64_t at = panel * kLanes + lane;
  if (at >= p.matrix.n) return -1;
  const int64_t output = LoadReadOnly(p.matrix.order + at);
  return output < 0 || output >= p.matrix.n ? -1 : output;
}

// Whether the structure's in_features is x's.
TFCOMPRESS_DEVICE bool Fits(const Problem& p) { return LoadReadOnly(p.matrix.order + p.matrix.n) == p.matrix.k; }

// `fits`: Fits(p).
template <typename T>
TFCOMPRESS_DEVICE void Finish(const Problem& p, bool fits, int64_t row, int64_t output, T sum) {
  const float row_scale = p.row_scales != nullptr ? p.row_scales[row].scale : 1.0f;
  if (p.epilogue.y_type == ElementType::kInt32) {
    static_cast<int32_t*>(p.epilogue.y)[row * p.epilogue.y_stride + output] = static_cast<int32_t>(sum);
    return;
  }
  const float nan = BitCast<float>(0x7fc00000u);
  FinishOne(p.epilogue, row, output, fits ? static_cast<float>(sum) : nan, row_scale);
}

}  // namespace
}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_FORMATS_SPARSE_CUDA_KERNELS_CUH_
