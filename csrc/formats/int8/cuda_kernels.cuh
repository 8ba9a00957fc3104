// What the int8 GPU kernels share: the arguments of every launch, and what follows integer sums.
#ifndef TFCOMPRESS_FORMATS_INT8_CUDA_KERNELS_CUH_
#define TFCOMPRESS_FORMATS_INT8_CUDA_KERNELS_CUH_

#include "base/cuda_epilogue.cuh"
#include "base/cuda_intrinsics.cuh"
#include "base/cuda_quantize.cuh"
#include "base/quantize.h"
#include "formats/int8/cuda.h"

namespace tfcompress::int8 {

// One multiplication on the device, as every kernel of it gets it.
struct CudaProblem {
  CudaRows x;
  const float* x_scale = nullptr;    // [1] or null: dynamic, or float activations
  const uint8_t* kernel = nullptr;
  int64_t m = 0, k = 0, n = 0;
  int64_t groups = 0;                // of 4 k
  const uint8_t* x_q = nullptr;      // [m, x_q_stride], where rows are quantised first
  int64_t x_q_stride = 0;
  RowScale* row_scales = nullptr;    // [m], the same
  float* row_scale_copy = nullptr;   // [m] or null: for the caller
  void* partial_sums = nullptr;      // [splits, m, partial_stride] or null: K isn't split
  int64_t partial_stride = 0;
  CudaEpilogue epilogue;
};

CudaProblem MakeCudaProblem(const CudaMatMulArgs& args);

std::string LaunchGemv(const CudaProblem& p, const GemvPlan& plan, int64_t shared_bytes, bool integer, void* stream);
std::string LaunchGemm(const CudaProblem& p, const GemmPlan& plan, const CudaDevice& device, void* stream);
std::string LaunchFloatGemm(const CudaProblem& p, const FloatPlan& plan, void* stream);

namespace {

// Four outputs' words of every group, group after group: where they begin, and how far apart. `exists` is false beyond the last panel's width.
struct WeightColumns {
  const uint8_t* first;
  int64_t step_bytes;
  bool exists;
};

TFCOMPRESS_DEVICE WeightColumns WeightColumnsAt(const CudaProblem& p, int64_t column) {
  const int64_t panel = column / kPanelWidth * kPanelWidth;  // its first output
  const int64_t left = RoundUp(p.n - panel, kPanelQuantum);
  const int64_t width = left < kPanelWidth ? left : kPanelWidth;
  return {p.kernel + panel * p.groups * kGroup + (column - panel) * kGroup, width * kGroup, column - panel < width};
}

// y[row, column + i] from sums of x_q * byte: the zero point's share is taken off first.
TFCOMPRESS_DEVICE void FinishIntegerFour(const CudaProblem& p, int64_t row, int64_t column, const int32_t (&sums)[4], const RowScale& row_scale) {
  int32_t exact[4];
  float v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    exact[i] = sums[i] - static_cast<int32_t>(kZeroPoint) * row_scale.sum;
    v[i] = static_cast<float>(exact[i]);
  }
  if (p.epilogue.y_type == ElementType::kInt32) return StoreFour(p.epilogue, row, column, exact);
  FinishFour(p.epilogue, row, column, v, row_scale.scale, static_cast<float>(row_scale.sum));
}

// w_q of k = 4 * group + j out of a word of bytes: 2^23 + byte is a float whose mantissa ends in the byte.
TFCOMPRESS_DEVICE float DecodeWeight(uint32_t word, int j) {
  constexpr uint32_t kTwo23 = 0x4b000000u;
  return BitCast<float>(BytePermute(word, kTwo23, 0x7440u + static_cast<uint32_t>(j))) - (8388608.0f + static_cast<float>(kZeroPoint));
}

}  // namespace
}  // namespace tfcompress::int8

#endif  // TFCOMPRESS_FORMATS_INT8_CUDA_KERNELS_CUH_
