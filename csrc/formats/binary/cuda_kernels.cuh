// What the GPU kernels for weights of one and two bits share: the arguments of every launch, and what follows integer sums.
#ifndef TFCOMPRESS_FORMATS_BINARY_CUDA_KERNELS_CUH_
#define TFCOMPRESS_FORMATS_BINARY_CUDA_KERNELS_CUH_

#include "base/cuda_panels.cuh"
#include "formats/binary/cuda.h"

namespace tfcompress::binary {

struct CudaProblem : PanelProblem {
  const uint32_t* x_signs = nullptr;   // [m, SignWords(k)] in place of x
  bool scale_x = false;
  uint32_t last_word_mask = 0;         // those bits of the last word of signs that are within k
  uint32_t* y_signs = nullptr;         // [m, SignWords(n)] in place of y
  const int32_t* threshold = nullptr;  // [n], with y_signs
};

CudaProblem MakeCudaProblem(const MatMulArgs& args);

std::string LaunchGemv(const CudaProblem& p, const MatMulArgs& args, const GemvPlan& plan, void* stream);
// Prepares rows in the workspace that LayOutGemm lays out, and multiplies.
std::string PrepareAndLaunchGemm(const MatMulArgs& args, const GemmTable& table, const GemmPlan& plan, void* workspace, const CudaDevice& device,
                                 void* stream);
std::string LaunchGemm(const CudaProblem& p, const GemmTable& table, const GemmPlan& plan, const CudaDevice& device, void* stream);
std::string LaunchFloatGemm(const CudaProblem& p, Levels levels, const FloatPlan& plan, void* stream);

namespace {

// The words of bytes that a word of weights becomes, and the levels in them.
template <Levels levels>
struct Fields {
  static constexpr int kBits = BitsOf(levels);
  static constexpr int kCount = 8 / kBits;
  static constexpr int kDepth = 4 * kCount;
  static constexpr uint32_t kMask = levels == Levels::kBinary ? 0x01010101u : 0x03030303u;
  static constexpr int kFactor = levels == Levels::kBinary ? 2 : 1;  // w_l = 2 * level - 1 or level - 1: sum x w_l = factor * sum x level - sum x
};

// A word as float weights.
template <Levels levels>
struct FloatLevels {
  static constexpr int kDepth = Fields<levels>::kDepth;
  static constexpr int kPartDepth = kGemvFloatDepth;
  static constexpr int kParts = kDepth / kPartDepth;
  TFCOMPRESS_DEVICE static uint32_t From(uint32_t word, int k) { return word >> (k % kDepth * Fields<levels>::kBits); }
  TFCOMPRESS_DEVICE static float Decode(uint32_t word, int i) {
    if constexpr (levels == Levels::kBinary) {
      return BitCast<float>((word << (31 - i) & 0x80000000u) ^ 0xbf800000u);  // -1.0f, its sign turned where the bit is set
    } else {
      return BitCast<float>((word >> (2 * i) & 3u) | 0x4b000000u) - 8388609.0f;  // 2^23 + level is a float whose mantissa ends in the level
    }
  }
};

// Scale of a row of signs: `magnitudes` is the sum of |x|, a NaN where there is one.
TFCOMPRESS_DEVICE RowScale SignsRowScale(const CudaProblem& p, int32_t ones, float magnitudes) {
  const float mean = p.k == 0 ? 0.0f : magnitudes / static_cast<float>(p.k);
  const float scale = magnitudes != magnitudes ? BitCast<float>(0x7fc00000u) : p.scale_x ? mean : 1.0f;
  return {scale, 2 * ones - static_cast<int32_t>(p.k)};
}

// Word `word` of a row's signs, by a whole warp; adds each lane's |x| to *magnitudes.
TFCOMPRESS_DEVICE uint32_t SignsWord(const CudaProblem& p, int64_t row, int64_t word, float* magnitudes) {
  const int64_t k = word * kWordBits + ThreadIndex() % 32;
  const float x = LoadOne(p.x, row, k);
  *magnitudes += Abs(x);
  return Ballot(k < p.k && !(x < 0.0f));
}

TFCOMPRESS_DEVICE float WarpSumOfFloats(float v) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) v += ShuffleXor(v, lanes);
  return v;
}

// y, or the signs, of four outputs from the exact sums of products. Called by whole warps where y is packed signs: eight lanes, the first of them at a
// multiple of eight, have the 32 outputs of a word.
TFCOMPRESS_DEVICE void FinishExact(const CudaProblem& p, int64_t row, int64_t column, bool exists, const int32_t (&exact)[4], const RowScale& row_scale) {
  if (p.y_signs != nullptr) {
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (exists && column + i < p.n) bits |= static_cast<uint32_t>(exact[i] >= LoadReadOnly(p.threshold + column + i)) << i;
    }
    bits <<= ThreadIndex() % 8 * 4;
#pragma unroll
    for (int lanes = 4; lanes > 0; lanes /= 2) bits |= ShuffleXor(bits, lanes);
    if (exists && ThreadIndex() % 8 == 0) p.y_signs[row * SignWords(p.n) + column / kWordBits] = bits;
    return;
  }
  if (!exists) return;
  if (p.epilogue.y_type == ElementType::kInt32) return StoreFour(p.epilogue, row, column, exact);
  float v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = static_cast<float>(exact[i]);
  FinishFour(p.epilogue, row, column, v, row_scale.scale, static_cast<float>(row_scale.sum));
}

}  // namespace
}  // namespace tfcompress::binary

#endif  // TFCOMPRESS_FORMATS_BINARY_CUDA_KERNELS_CUH_
