// Cuts work for a GPU. Host code that needs no CUDA: its tests run anywhere.
#include <algorithm>

#include "base/quantize.h"
#include "formats/sparse/cuda.h"
#include "formats/sparse/kernels.h"

namespace tfcompress::sparse {

std::string CheckCudaMatrix(const Matrix& a) {
  if (a.k < 0 || a.n < 0 || a.k > MostInFeatures(a.values_type)) {
    return "in_features must be from 0 to " + std::to_string(MostInFeatures(a.values_type)) + " and out_features >= 0; received " +
           std::to_string(a.k) + " and " + std::to_string(a.n);
  }
  if (a.reach != 64 && !(a.reach == 128 && a.values_type == Values::kInt8)) {
    return "reach must be 64, or with int8 values 128; received " + std::to_string(a.reach);
  }
  if (a.k == 0 && a.steps != 0) return "there must be no steps where in_features is 0; received " + std::to_string(a.steps);
  if ((reinterpret_cast<uintptr_t>(a.indices) | reinterpret_cast<uintptr_t>(a.values)) % 16 != 0) {
    return "structure and values must be 16-byte aligned in GPU memory, as whole tensors are. Copy a slice with tf.identity";
  }
  return "";
}

GatherPlan PlanGather(const Matrix& a, int64_t m) {
  GatherPlan plan;
  const int64_t row_bytes = XExtent(a) * 4;
  for (const int rows : {8, 4, 2, 1}) {
    plan.rows = rows;
    plan.shared = rows * row_bytes <= kGatherXBytes;
    if ((plan.shared && rows < 2 * m) || rows == 1) break;
  }
  if (!plan.shared) plan.rows = m > 1 ? 2 : 1;  // nothing is held: rows share the loads of weights
  plan.row_parts = DivideUp(m, plan.rows);
  return plan;
}

ColumnsPlan PlanColumns(const Matrix& a, int64_t m, const CudaDevice& device) {
  ColumnsPlan plan;
  plan.row_tiles = DivideUp(m, kColumnsRows);
  for (const int warps : kColumnsWarps) {
    plan.warps = warps;
    plan.panel_groups = DivideUp(NumPanels(a.n), warps);
    if (plan.row_tiles * plan.panel_groups >= 2 * int64_t{device.multiprocessors}) break;
  }
  return plan;
}

int64_t CudaWorkspaceBytes(const CudaMatMulArgs& args, const CudaDevice& /*device*/) {
  const MatMulArgs& a = args.matmul;
  if (a.matrix.values_type != Values::kInt8 || a.m == 0 || a.matrix.n == 0) return 0;
  return RoundUp(a.m * static_cast<int64_t>(sizeof(RowScale)), 128) + RoundUp(a.m * RoundUp(a.matrix.k, 4), 128);
}

}  // namespace tfcompress::sparse
