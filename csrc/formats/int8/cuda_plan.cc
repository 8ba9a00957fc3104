// Picks tiles and splits for a GPU, and lays out the workspace. Host code that needs no CUDA: its tests run anywhere.
#include <algorithm>

#include "base/quantize.h"
#include "formats/int8/cuda.h"

namespace tfcompress::int8 {
namespace {

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool Integer(const MatMulArgs& args) { return args.activations != Activations::kFloat; }

}  // namespace

std::string CheckCudaMatMul(const CudaMatMulArgs& args) {
  MatMulArgs matmul = args.matmul;
  matmul.x_scale = 1.0f;  // the real one lies on the device
  const std::string error = CheckMatMul(matmul);
  if (!error.empty()) return error;
  if (reinterpret_cast<uintptr_t>(args.matmul.kernel) % 16 != 0) {
    return "kernel must be 16-byte aligned in GPU memory, as whole tensors are; received address " +
           std::to_string(reinterpret_cast<uintptr_t>(args.matmul.kernel)) + ". Copy the slice with tf.identity";
  }
  return "";
}

GemvPlan PlanGemv(const MatMulArgs& args, const CudaDevice& device) {
  GemvPlan plan;
  for (const int columns : kGemvColumns) {
    plan.columns = columns;
    plan.blocks = DivideUp(args.n, columns);
    if (plan.blocks >= int64_t{kGemvBlocksPerMultiprocessor} * device.multiprocessors) break;
  }
  const int64_t rows = GemvRows(args.m), groups = RoundUp(args.k, kGroup) / kGroup;
  const int64_t group_bytes = rows * kGroup * (Integer(args) ? 1 : 4);
  plan.fused = Integer(args) && groups * group_bytes <= kGemvXBytes;
  plan.chunk_groups = std::min(groups, kGemvXBytes / group_bytes);
  return plan;
}

int64_t GemvSharedBytes(const MatMulArgs& args, const GemvPlan& plan) {
  const int64_t rows = GemvRows(args.m);
  const int64_t x = RoundUp(plan.chunk_groups * rows * kGroup * (Integer(args) ? 1 : 4), 16);
  constexpr int64_t kWarps = kGemvThreads / 32;
  constexpr int64_t kNumbers = 2;  // of a row and warp: the largest magnitude and the sum
  return x + kWarps * rows * plan.columns * 4 + kNumbers * kWarps * rows * 4 + rows * static_cast<int64_t>(sizeof(RowScale));
}

CudaWorkspace LayOutWorkspace(const CudaMatMulArgs& args, const CudaDevice& device) {
  const MatMulArgs& a = args.matmul;
  CudaWorkspace w;
  const bool gemv = a.m <= kGemvRows;
  const bool quantised_before = Integer(a) && !(gemv && PlanGemv(a, device).fused);
  if (quantised_before) {
    w.x_stride = RoundUp(a.k, kGemmDepth);
    w.x = RoundUp(a.m * static_cast<int64_t>(sizeof(RowScale)), 128);
    w.bytes = w.x + RoundUp(a.m * w.x_stride, 128);
  }
  if (gemv) return w;
  const int64_t splits = Integer(a) ? PlanGemm(kGemmTable, a.m, DivideUp(a.k, kGemmDepth), a.n, device).splits : PlanFloat(a.m, a.k, a.n, device).splits;
  if (splits == 1) return w;
  w.partial_sums = w.bytes;
  w.partial_stride = RoundUp(a.n, 4) + (Integer(a) ? 0 : 4);
  w.bytes += splits * a.m * w.partial_stride * 4;
  return w;
}

int64_t CudaWorkspaceBytes(const CudaMatMulArgs& args, const CudaDevice& device) {
  return args.matmul.m == 0 || args.matmul.n == 0 ? 0 : LayOutWorkspace(args, device).bytes;
}

}  // namespace tfcompress::int8
