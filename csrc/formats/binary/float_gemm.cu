// y [m, n] with float activations for more rows than the GEMV takes.
#include "base/cuda_panels_float.cuh"
#include "formats/binary/cuda_kernels.cuh"

namespace tfcompress::binary {
namespace {

template <Levels levels>
TFCOMPRESS_GLOBAL(kFloatTileThreads, 3)
FloatGemmKernel(PanelProblem p, int64_t depth, int64_t row_tiles, int64_t column_tiles) {
  FloatGemm<FloatLevels<levels>>(p, depth, row_tiles, column_tiles);
}

TFCOMPRESS_GLOBAL(kFloatFinishThreads, 4)
FinishFloatSplitsKernel(PanelProblem p, int splits) { FinishFloatSplits(p, splits); }

}  // namespace

std::string LaunchFloatGemm(const CudaProblem& p, Levels levels, const FloatPlan& plan, void* stream) {
  const auto kernel = levels == Levels::kBinary ? FloatGemmKernel<Levels::kBinary> : FloatGemmKernel<Levels::kTernary>;
  return LaunchPanelFloatGemm("binary GEMM of floats", kernel, FinishFloatSplitsKernel, p, plan, stream);
}

}  // namespace tfcompress::binary
