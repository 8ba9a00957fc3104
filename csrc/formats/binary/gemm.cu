// y [m, n] on tensor cores: signs times signs by counting bits, or bytes times levels that are taken out of words in registers. The sums are exact.
#include "base/cuda_panels_gemm.cuh"
#include "formats/binary/cuda_kernels.cuh"

namespace tfcompress::binary {
namespace {

// kCountsBoth: mma counts the bits that are set in both words, not those that differ.
template <bool kCountsBoth>
struct SignsProduct {
  using Problem = CudaProblem;
  static constexpr int kWords = kSignsTable.words;
  static constexpr bool kMasksLastWord = true;
  static constexpr bool kCountsWeights = kCountsBoth;
  TFCOMPRESS_INLINE static constexpr GemmTile Tile(int i) { return kSignsTiles[i]; }

  template <int kStride>
  TFCOMPRESS_DEVICE static void LoadWeights(const uint32_t* words, int s, int c, uint32_t (&a)[4]) {
    LoadEightWords<kStride>(words, s, c, a);
  }
  TFCOMPRESS_DEVICE static void MultiplyAdd(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    MultiplyAddSignMatrices(c, a, b0, b1);
  }
  // Sum of products = k - 2 d, where d bits differ. Where the sums s are (bits set in w) - 2 * (bits set in both), d = s + bits set in x, of which the
  // row's sum is 2 * (bits set in x) - k.
  TFCOMPRESS_DEVICE static void Finish(const Problem& p, int64_t row, int64_t column, bool exists, const int32_t (&sums)[4]) {
    RowScale row_scale = {0.0f, 0};
    if (exists) row_scale = p.row_scales[row];
    const int32_t most = kCountsWeights ? -row_scale.sum : static_cast<int32_t>(p.k);
    int32_t exact[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) exact[i] = most - 2 * sums[i];
    FinishExact(p, row, column, exists, exact, row_scale);
  }
};

template <Levels levels>
struct BytesProduct {
  using Problem = CudaProblem;
  using F = Fields<levels>;
  static constexpr int kWords = kBytesTables[static_cast<int>(levels)].words;
  static constexpr bool kMasksLastWord = false, kCountsWeights = false;  // levels beyond K meet zeros
  TFCOMPRESS_INLINE static constexpr GemmTile Tile(int i) { return kBytesTiles[i]; }

  // 32 bytes of K are the fields of one binary word, the lane's are c and 4 + c; or of two ternary words, the lane's is c of both.
  template <int kStride>
  TFCOMPRESS_DEVICE static void LoadWeights(const uint32_t* words, int s, int c, uint32_t (&a)[4]) {
    constexpr int kPerHalf = kWords / 2;
    const Words<2> low = tfcompress::LoadWords<2>(words + s * kPerHalf * kStride);
    const Words<2> high = kPerHalf == 1 ? low : tfcompress::LoadWords<2>(words + (s * kPerHalf + kPerHalf - 1) * kStride);
    const int high_field = kPerHalf == 1 ? c + 4 : c;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a[i] = low.v[i] >> (c * F::kBits) & F::kMask;
      a[2 + i] = high.v[i] >> (high_field * F::kBits) & F::kMask;
    }
  }
  TFCOMPRESS_DEVICE static void MultiplyAdd(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { MultiplyAddMatrices(c, a, b0, b1); }
  TFCOMPRESS_DEVICE static void Finish(const Problem& p, int64_t row, int64_t column, bool exists, const int32_t (&sums)[4]) {
    RowScale row_scale = {0.0f, 0};
    if (exists) row_scale = p.row_scales[row];
    int32_t exact[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) exact[i] = F::kFactor * sums[i] - row_scale.sum;
    FinishExact(p, row, column, exists, exact, row_scale);
  }
};

template <int kTile>
TFCOMPRESS_GLOBAL(GemmThreads(kSignsTiles[kTile]), kSignsTiles[kTile].blocks)
SignsGemmKernel(CudaProblem p, int64_t stages, int64_t row_tiles, int64_t column_tiles) {
  using Product = SignsProduct<kSignMatricesCountBoth>;
  static_assert(Product::kWords * kWordBits == 8 * kStageXBytes && Product::kMasksLastWord, "a sign for a weight, and those beyond K count for nothing");
  if constexpr (kHasSignMatrices) Gemm<Product, kTile>(p, stages, row_tiles, column_tiles);  // elsewhere the launcher takes BytesGemmKernel
}

TFCOMPRESS_GLOBAL(kFinishThreads, 4)
FinishSignsKernel(CudaProblem p, int splits) { FinishSplits<SignsProduct<kSignMatricesCountBoth>>(p, splits); }

template <Levels levels, int kTile>
TFCOMPRESS_GLOBAL(GemmThreads(kBytesTiles[kTile]), kBytesTiles[kTile].blocks)
BytesGemmKernel(CudaProblem p, int64_t stages, int64_t row_tiles, int64_t column_tiles) {
  Gemm<BytesProduct<levels>, kTile>(p, stages, row_tiles, column_tiles);
}

template <Levels levels>
TFCOMPRESS_GLOBAL(kFinishThreads, 4)
FinishBytesKernel(CudaProblem p, int splits) { FinishSplits<BytesProduct<levels>>(p, splits); }

template <Levels levels>
std::string LaunchBytes(const CudaProblem& p, const GemmTable& table, const GemmPlan& plan, const CudaDevice& device, void* stream) {
  using Kernel = void (*)(CudaProblem, int64_t, int64_t, int64_t);
  constexpr Kernel kKernels[] = {BytesGemmKernel<levels, 0>, BytesGemmKernel<levels, 1>, BytesGemmKernel<levels, 2>};
  static_assert(sizeof(kKernels) / sizeof(kKernels[0]) == kNumBytesTiles, "a kernel for each row of the table");
  return LaunchPanelGemm("binary GEMM of bytes", kKernels, FinishBytesKernel<levels>, table, p, plan, device, stream);
}

}  // namespace

std::string LaunchGemm(const CudaProblem& p, const GemmTable& table, const GemmPlan& plan, const CudaDevice& device, void* stream) {
  if (&table != &kSignsTable) {
    const auto launch = table.words == BytesProduct<Levels::kBinary>::kWords ? LaunchBytes<Levels::kBinary> : LaunchBytes<Levels::kTernary>;
    return launch(p, table, plan, device, stream);
  }
  using Kernel = void (*)(CudaProblem, int64_t, int64_t, int64_t);
  constexpr Kernel kKernels[] = {SignsGemmKernel<0>, SignsGemmKernel<1>, SignsGemmKernel<2>};
  static_assert(sizeof(kKernels) / sizeof(kKernels[0]) == kNumSignsTiles, "a kernel for each row of the table");
  return LaunchPanelGemm("binary GEMM of signs", kKernels, FinishSignsKernel, table, p, plan, device, stream);
}

}  // namespace tfcompress::binary
