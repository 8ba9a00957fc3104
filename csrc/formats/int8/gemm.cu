// y [m, n] for m > 8 on tensor cores: x_q [m, k] (signed bytes) times packed weights (unsigned bytes), sums exact in int32. See cuda.h for the tiles.
#include "base/cuda_panels_gemm.cuh"
#include "formats/int8/cuda_kernels.cuh"

namespace tfcompress::int8 {
namespace {

struct BytesProduct {
  using Problem = CudaProblem;
  static constexpr int kWords = kGemmTable.words;
  static constexpr bool kMasksLastWord = false, kCountsWeights = false;  // bytes beyond K meet zeros
  TFCOMPRESS_INLINE static constexpr GemmTile Tile(int i) { return kGemmTiles[i]; }

  template <int kStride>
  TFCOMPRESS_DEVICE static void LoadWeights(const uint32_t* words, int s, int c, uint32_t (&a)[4]) {
    LoadEightWords<kStride>(words, s, c, a);
  }
  TFCOMPRESS_DEVICE static void MultiplyAdd(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { MultiplyAddMatrices(c, a, b0, b1); }
  TFCOMPRESS_DEVICE static void Finish(const Problem& p, int64_t row, int64_t column, bool exists, const int32_t (&sums)[4]) {
    if (exists) FinishIntegerFour(p, row, column, sums, p.row_scales[row]);
  }
};

template <int kTile>
TFCOMPRESS_GLOBAL(GemmThreads(kGemmTiles[kTile]), kGemmTiles[kTile].blocks)
GemmKernel(CudaProblem p, int64_t stages, int64_t row_tiles, int64_t column_tiles) {
  Gemm<BytesProduct, kTile>(p, stages, row_tiles, column_tiles);
}

TFCOMPRESS_GLOBAL(kFinishThreads, 4)
FinishSplitsKernel(CudaProblem p, int splits) { FinishSplits<BytesProduct>(p, splits); }

}  // namespace

std::string LaunchGemm(const CudaProblem& p, const GemmPlan& plan, const CudaDevice& device, void* stream) {
  using Kernel = void (*)(CudaProblem, int64_t, int64_t, int64_t);
  constexpr Kernel kKernels[] = {GemmKernel<0>, GemmKernel<1>, GemmKernel<2>, GemmKernel<3>, GemmKernel<4>};
  static_assert(sizeof(kKernels) / sizeof(kKernels[0]) == kNumGemmTiles, "a kernel for each row of the table");
  return LaunchPanelGemm("int8 GEMM", kKernels, FinishSplitsKernel, kGemmTable, p, plan, device, stream);
}

}  // namespace tfcompress::int8
