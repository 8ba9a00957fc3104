// y [m, n] for m > 8 with float activations.
#include "base/cuda_panels_float.cuh"
#include "formats/int8/cuda_kernels.cuh"

namespace tfcompress::int8 {
namespace {

TFCOMPRESS_GLOBAL(kFloatTileThreads, 3)
FloatGemmKernel(PanelProblem p, int64_t depth, int64_t row_tiles, int64_t column_tiles) { FloatGemm<Bytes>(p, depth, row_tiles, column_tiles); }

TFCOMPRESS_GLOBAL(kFloatFinishThreads, 4)
FinishFloatSplitsKernel(PanelProblem p, int splits) { FinishFloatSplits(p, splits); }

}  // namespace

std::string LaunchFloatGemm(const CudaProblem& p, const FloatPlan& plan, void* stream) {
  return LaunchPanelFloatGemm("int8 weight-only GEMM", FloatGemmKernel, FinishFloatSplitsKernel, p, plan, stream);
}

}  // namespace tfcompress::int8
