// Picks tiles and splits for a GPU, and lays out the workspace. Host code that needs no CUDA: its tests run anywhere.
#include <algorithm>

#include "base/quantize.h"
#include "formats/int8/cuda.h"

namespace tfcompress::int8 {
namespace {

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What a multiprocessor does in a cycle, from 7.5 to 9.0 within a factor of two of each other and of this; only their ratios choose a tile.
constexpr double kMacsPerCycle = 1536;    // tensor cores, int8
constexpr double kBytesPerCycle = 24;     // from L2, when all multiprocessors read
constexpr double kStageCycles = 40;       // barrier and addresses of a stage, not hidden
constexpr double kBlockCycles = 1500;     // launch, filling the pipeline, epilogue
constexpr double kFloatMacsPerCycle = 64;
// Part of K that is worth a split: below it filling the pipeline costs more than the parts gain.
constexpr int64_t kLeastSplitStages = 4;
constexpr int64_t kMostSplits = 16;

bool Integer(const MatMulArgs& args) { return args.activations != Activations::kFloat; }

// The whole stages that a part of K has.
int64_t SplitDepth(int64_t k, int64_t splits, int64_t stage) { return DivideUp(DivideUp(k, stage), splits) * stage; }

// Sums of parts go through memory once more: written, read.
double SplitCycles(int64_t m, int64_t n, int64_t splits, const CudaDevice& device) {
  return splits == 1 ? 0.0 : kBlockCycles + 8.0 * static_cast<double>(m * n * splits) / (kBytesPerCycle * device.multiprocessors);
}

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
  return x + kWarps * rows * plan.columns * 4 + kWarps * rows * 4 + rows * static_cast<int64_t>(sizeof(RowScale));
}

GemmPlan PlanGemm(int64_t m, int64_t k, int64_t n, const CudaDevice& device) {
  GemmPlan best;
  double best_cycles = 0.0;
  for (int i = 0; i < kNumGemmTiles; ++i) {
    const GemmTile& tile = kGemmTiles[i];
    const int64_t shared = GemmSharedBytes(tile, device.compute_capability);
    if (shared > device.shared_bytes_per_block) continue;
    const int64_t tiles = DivideUp(m, tile.rows) * DivideUp(n, tile.columns);
    for (int64_t splits = 1; splits <= kMostSplits; splits *= 2) {
      const int64_t depth = SplitDepth(k, splits, kGemmDepth);
      if (splits > 1 && (depth < kLeastSplitStages * kGemmDepth || depth * (splits - 1) >= k)) break;
      const int64_t stages = depth / kGemmDepth;
      // Blocks of a multiprocessor share its tensor cores and its part of L2.
      const int64_t on_one = DivideUp(tiles * splits, device.multiprocessors);
      const double bytes = static_cast<double>((tile.rows + tile.columns) * kGemmDepth);
      const double macs = static_cast<double>(tile.rows) * tile.columns * kGemmDepth;
      const double stage = std::max(macs / kMacsPerCycle, bytes / kBytesPerCycle) + kStageCycles / tile.blocks;
      const double cycles = static_cast<double>(on_one) * (static_cast<double>(stages) * stage + kBlockCycles / tile.blocks) +
                            SplitCycles(m, n, splits, device);
      if (best.blocks != 0 && cycles >= best_cycles) continue;
      best_cycles = cycles;
      best = {i, splits, depth, tiles * splits};
    }
  }
  return best;
}

FloatPlan PlanFloat(int64_t m, int64_t k, int64_t n, const CudaDevice& device) {
  const int64_t tiles = DivideUp(m, kFloatTileRows) * DivideUp(n, kFloatTileColumns);
  FloatPlan best;
  double best_cycles = 0.0;
  for (int64_t splits = 1; splits <= kMostSplits; splits *= 2) {
    const int64_t depth = SplitDepth(k, splits, kFloatTileDepth);
    if (splits > 1 && (depth < kLeastSplitStages * kFloatTileDepth || depth * (splits - 1) >= k)) break;
    const double macs = static_cast<double>(kFloatTileRows * kFloatTileColumns) * static_cast<double>(depth);
    const double cycles = static_cast<double>(DivideUp(tiles * splits, device.multiprocessors)) * (macs / kFloatMacsPerCycle + kBlockCycles) +
                          SplitCycles(m, n, splits, device);
    if (best.blocks != 0 && cycles >= best_cycles) continue;
    best_cycles = cycles;
    best = {splits, depth, tiles * splits};
  }
  return best;
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
  const int64_t splits = Integer(a) ? PlanGemm(a.m, a.k, a.n, device).splits : PlanFloat(a.m, a.k, a.n, device).splits;
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
