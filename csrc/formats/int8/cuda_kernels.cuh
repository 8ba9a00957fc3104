// What the int8 GPU kernels share: the arguments of every launch, and what follows integer sums.
#ifndef TFCOMPRESS_FORMATS_INT8_CUDA_KERNELS_CUH_
#define TFCOMPRESS_FORMATS_INT8_CUDA_KERNELS_CUH_

#include "base/cuda_panels.cuh"
#include "formats/int8/cuda.h"

namespace tfcompress::int8 {

struct CudaProblem : PanelProblem {
  const float* x_scale = nullptr;  // [1] or null: dynamic, or float activations
};

CudaProblem MakeCudaProblem(const CudaMatMulArgs& args);

std::string LaunchGemv(const CudaProblem& p, const GemvPlan& plan, int64_t shared_bytes, bool integer, void* stream);
std::string LaunchGemm(const CudaProblem& p, const GemmPlan& plan, const CudaDevice& device, void* stream);
std::string LaunchFloatGemm(const CudaProblem& p, const FloatPlan& plan, void* stream);

namespace {

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

// A word as float weights.
struct Bytes {
  static constexpr int kDepth = kGroup, kParts = 1, kPartDepth = kGroup;
  TFCOMPRESS_DEVICE static uint32_t From(uint32_t word, int /*k*/) { return word; }
  // 2^23 + byte is a float whose mantissa ends in the byte.
  TFCOMPRESS_DEVICE static float Decode(uint32_t word, int i) {
    constexpr uint32_t kTwo23 = 0x4b000000u;
    return BitCast<float>(BytePermute(word, kTwo23, 0x7440u + static_cast<uint32_t>(i))) - (8388608.0f + static_cast<float>(kZeroPoint));
  }
};

}  // namespace
}  // namespace tfcompress::int8

#endif  // TFCOMPRESS_FORMATS_INT8_CUDA_KERNELS_CUH_
