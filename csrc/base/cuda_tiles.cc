#include "base/cuda_tiles.h"

#include <algorithm>

namespace tfcompress {
namespace {

constexpr double kStageBytesPerCycle = 1536;  // of x times outputs: int8 multiply-adds of the tensor cores; 1-bit ones come 8 to a byte
constexpr double kStageCycles = 40;           // barrier and addresses of a stage, not hidden
constexpr double kFloatMacsPerCycle = 64;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

double SplitCycles(int64_t m, int64_t n, int64_t splits, const CudaDevice& device) {
  return splits == 1 ? 0.0 : kGemmBlockCycles + 8.0 * static_cast<double>(m * n * splits) / (kGemmBytesPerCycle * device.multiprocessors);
}

GemmPlan PlanGemm(const GemmTable& table, int64_t m, int64_t all_stages, int64_t n, const CudaDevice& device) {
  GemmPlan best;
  double best_cycles = 0.0;
  for (int i = 0; i < table.count; ++i) {
    const GemmTile& tile = table.tiles[i];
    if (GemmSharedBytes(tile, table.words, device.compute_capability) > device.shared_bytes_per_block) continue;
    const int64_t tiles = DivideUp(m, tile.rows) * DivideUp(n, tile.columns);
    for (int64_t splits = 1; splits <= kMostSplits; splits *= 2) {
      const int64_t stages = DivideUp(all_stages, splits);
      if (splits > 1 && (stages < kLeastSplitStages || stages * (splits - 1) >= all_stages)) break;
      // Blocks of a multiprocessor share its tensor cores and its part of L2.
      const int64_t on_one = DivideUp(tiles * splits, device.multiprocessors);
      const double bytes = static_cast<double>(tile.rows * kStageXBytes + tile.columns * table.words * 4);
      const double macs = static_cast<double>(tile.rows) * tile.columns * kStageXBytes;
      const double stage = std::max(macs / kStageBytesPerCycle, bytes / kGemmBytesPerCycle) + kStageCycles / tile.blocks;
      const double cycles = static_cast<double>(on_one) * (static_cast<double>(stages) * stage + kGemmBlockCycles / tile.blocks) +
                            SplitCycles(m, n, splits, device);
      if (best.blocks != 0 && cycles >= best_cycles) continue;
      best_cycles = cycles;
      best = {i, splits, stages, tiles * splits};
    }
  }
  return best;
}

FloatPlan PlanFloat(int64_t m, int64_t k, int64_t n, const CudaDevice& device) {
  const int64_t tiles = DivideUp(m, kFloatTileRows) * DivideUp(n, kFloatTileColumns);
  const int64_t stages = DivideUp(k, kFloatTileDepth);
  FloatPlan best;
  double best_cycles = 0.0;
  for (int64_t splits = 1; splits <= kMostSplits; splits *= 2) {
    const int64_t depth = DivideUp(stages, splits) * kFloatTileDepth;
    if (splits > 1 && (depth < kLeastSplitStages * kFloatTileDepth || depth * (splits - 1) >= k)) break;
    const double macs = static_cast<double>(kFloatTileRows * kFloatTileColumns) * static_cast<double>(depth);
    const double cycles = static_cast<double>(DivideUp(tiles * splits, device.multiprocessors)) * (macs / kFloatMacsPerCycle + kGemmBlockCycles) +
                          SplitCycles(m, n, splits, device);
    if (best.blocks != 0 && cycles >= best_cycles) continue;
    best_cycles = cycles;
    best = {splits, depth, tiles * splits};
  }
  return best;
}

}  // namespace tfcompress
