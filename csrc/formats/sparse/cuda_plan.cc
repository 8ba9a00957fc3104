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

namespace {

// What a multiprocessor does in a cycle, within a factor of two of what documents say.
double ByteProductsPerCycle(const CudaDevice& device) {  // int8 multiply-adds on tensor cores; bf16 half, tf32 a quarter as many
  switch (device.compute_capability) {
    case 80:
    case 100:
      return 2048;
    case 90:
      return 2540;  // by mma.sync
    default:
      return 1024;
  }
}
constexpr double kColumnsCycles = 2.2;    // of a place of a step and 64 rows: two wavefronts of shared memory, eight instructions
constexpr double kTransposeCycles = 20;   // of one k of 64 rows, which every block of Columns transposes for itself
constexpr double kGatherInstructions = 5; // of a place, for all rows of a block; then a multiply-add for each row, a load for four
constexpr double kGatherBlockCycles = 2000;
constexpr double kScatterCycles = 0.11;   // of a place that is expanded: 32 random stores conflict three- to fourfold
constexpr double kTensorLatency = 700;    // cycles from one stage to the next of a block that is alone
constexpr double kTensorBlockCycles = 4000;  // launch, first windows and stages, epilogue

double TensorCycles(const Matrix& a, int64_t m, const TensorPlan& plan, const CudaDevice& device) {
  const GemmTile& tile = kTensorTiles[plan.tile];
  const int64_t all_stages = NumWindows(a.values_type, a.k);
  const int64_t blocks = plan.row_tiles * plan.column_tiles * plan.splits;
  const int64_t on_one = DivideUp(blocks, device.multiprocessors);
  const int64_t shared_bytes = TensorSharedBytes(tile, a.values_type, device.compute_capability);
  const int64_t fit = std::min<int64_t>(tile.blocks, device.shared_bytes_per_block / shared_bytes);  // what one block can have is nearly all that there is
  const double area = static_cast<double>(tile.rows) * tile.columns * kTensorRowBytes;
  // Fragments: every warp reads its rows and outputs, 128 bytes a cycle. Written: x, zeros, weights.
  const double warps = GemmThreads(tile) / 32;
  const double places = static_cast<double>(a.steps * StepEntries(a.values_type)) / static_cast<double>(std::max<int64_t>(1, plan.column_tiles * all_stages));
  const double shared = (warps * (tile.warp_rows + tile.warp_columns) + tile.rows + tile.columns) * kTensorRowBytes / 128.0 + places * kScatterCycles;
  const double stage = std::max(area / ByteProductsPerCycle(device), shared);
  const double busy = static_cast<double>(on_one) * stage;
  const double waiting = static_cast<double>(DivideUp(on_one, fit)) * (stage + kTensorLatency);
  return static_cast<double>(plan.stages) * std::max(busy, waiting) + static_cast<double>(DivideUp(on_one, fit)) * kTensorBlockCycles +
         SplitCycles(m, plan.column_tiles * kTensorColumns, plan.splits, device);
}

double ColumnsCycles(const Matrix& a, int64_t m, const CudaDevice& device) {
  const ColumnsPlan plan = PlanColumns(a, m, device);
  const int64_t blocks = plan.row_tiles * plan.panel_groups;
  const double places = static_cast<double>(a.steps * StepEntries(a.values_type)) / static_cast<double>(std::max<int64_t>(1, plan.panel_groups));
  return static_cast<double>(DivideUp(blocks, device.multiprocessors)) * (places * kColumnsCycles + static_cast<double>(a.k) * kTransposeCycles);
}

double GatherCycles(const Matrix& a, int64_t m, const CudaDevice& device) {
  const GatherPlan plan = PlanGather(a, m);
  const int64_t panels = std::max<int64_t>(1, NumPanels(a.n));
  const double steps = static_cast<double>(a.steps) / static_cast<double>(panels), rows = plan.rows;
  const double places = steps * static_cast<double>(StepEntries(a.values_type));
  const double bytes = steps * static_cast<double>(64 + StepEntries(a.values_type)) + rows * static_cast<double>(XExtent(a)) * 4;
  const double cycles = std::max(places * (kGatherInstructions + 1.25 * rows) / 128, bytes / kGemmBytesPerCycle);
  return static_cast<double>(DivideUp(panels * plan.row_parts, device.multiprocessors)) * cycles + kGatherBlockCycles;
}

}  // namespace

ProductPlan PlanProduct(const CudaMatMulArgs& args, const CudaDevice& device) {
  const MatMulArgs& a = args.matmul;
  ProductPlan best;
  if (a.m <= kGatherOnly) return best;
  double best_cycles = GatherCycles(a.matrix, a.m, device);
  const double columns_cycles = ColumnsCycles(a.matrix, a.m, device);
  if (columns_cycles < best_cycles) {
    best_cycles = columns_cycles;
    best.product = Product::kColumns;
  }
  for (int tile = 0; tile < kNumTensorTiles; ++tile) {
    if (!HasTensor(args, tile, device)) continue;
    for (int64_t splits = 1; splits <= kMostSplits; splits *= 2) {
      const TensorPlan plan = PlanTensor(a.matrix, a.m, tile, splits);
      if (splits > 1 && (plan.stages < kLeastSplitStages || plan.splits < splits)) break;
      const double cycles = TensorCycles(a.matrix, a.m, plan, device);
      if (cycles >= best_cycles) continue;
      best_cycles = cycles;
      best = {Product::kTensor, plan};
    }
  }
  return best;
}

TensorPlan PlanTensor(const Matrix& a, int64_t m, int tile, int64_t splits) {
  const int64_t stages = NumWindows(a.values_type, a.k);
  TensorPlan plan;
  plan.tile = tile;
  plan.stages = DivideUp(stages, splits);
  plan.splits = std::max<int64_t>(1, stages == 0 ? 0 : DivideUp(stages, plan.stages));
  plan.row_tiles = DivideUp(m, kTensorTiles[tile].rows);
  plan.column_tiles = DivideUp(a.n, kTensorColumns);
  return plan;
}

bool HasTensor(const CudaMatMulArgs& args, int tile, const CudaDevice& device) {
  const Values values = args.matmul.matrix.values_type;
  if (values != Values::kInt8 && !(args.tensor_float && device.compute_capability >= 80)) return false;
  return TensorSharedBytes(kTensorTiles[tile], values, device.compute_capability) <= device.shared_bytes_per_block;
}

CudaWorkspace LayOutWorkspace(const CudaMatMulArgs& args, const ProductPlan& plan) {
  const MatMulArgs& a = args.matmul;
  CudaWorkspace w;
  if (a.m == 0 || a.matrix.n == 0) return w;
  const bool integer = a.matrix.values_type == Values::kInt8, tensor = plan.product == Product::kTensor;
  const auto take = [&](int64_t bytes) {
    const int64_t at = w.bytes;
    w.bytes += RoundUp(bytes, 128);
    return at;
  };
  if (integer) w.row_scales = take(a.m * static_cast<int64_t>(sizeof(RowScale)));
  if (tensor) w.rows_stride = NumWindows(a.matrix.values_type, a.matrix.k) * kTensorRowBytes;
  if (integer && !tensor) w.rows_stride = RoundUp(a.matrix.k, 4);
  w.rows = take(a.m * w.rows_stride);
  if (tensor && plan.tensor.splits > 1) {
    w.partial_stride = plan.tensor.column_tiles * kTensorColumns;
    w.partial_sums = take(plan.tensor.splits * a.m * w.partial_stride * 4);
  }
  return w;
}

int64_t CudaWorkspaceBytes(const CudaMatMulArgs& args, const CudaDevice& device) { return LayOutWorkspace(args, PlanProduct(args, device)).bytes; }

}  // namespace tfcompress::sparse
