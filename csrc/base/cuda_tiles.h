// Tiles of the tensor-core GEMM that formats share whose weights are panels of 32-bit words (base/cuda_panels_gemm.cuh), and the function that
// picks one. No CUDA header: it runs, and is tested, anywhere. A format's table and its reasons are in its own cuda.h.
#ifndef TFCOMPRESS_BASE_CUDA_TILES_H_
#define TFCOMPRESS_BASE_CUDA_TILES_H_

#include <cstdint>

#include "base/cuda_device.h"
#include "base/types.h"

namespace tfcompress {

struct GemmTile {
  int rows, columns;            // of a block
  int warp_rows, warp_columns;  // of a warp: multiples of 16 and of 32
  int stages;                   // of K under way, with cp.async; without it two
  int blocks;                   // that fit on a multiprocessor by registers, and by shared memory on 8.0 and 9.0 (8.6, 8.9, 12.0: half as many)
  const char* reason;
};

inline constexpr int kStageXBytes = 64;    // of a row of x in a stage: two mma deep, two sectors
inline constexpr int kWeightsPadding = 8;  // words behind the columns of a stage's row of words

TFCOMPRESS_INLINE constexpr int GemmThreads(const GemmTile& t) { return t.rows / t.warp_rows * (t.columns / t.warp_columns) * 32; }
// `words`: of weights that a stage has for each output.
TFCOMPRESS_INLINE constexpr int64_t GemmStageBytes(const GemmTile& t, int words) {
  return t.rows * kStageXBytes + words * (t.columns + kWeightsPadding) * 4;
}
TFCOMPRESS_INLINE constexpr int GemmStages(const GemmTile& t, int compute_capability) { return compute_capability >= 80 ? t.stages : 2; }
// The sums on their way to the epilogue lie in the stages' memory: rows of columns + 4 words, so many rows at a time.
TFCOMPRESS_INLINE constexpr int GemmEpilogueRows(const GemmTile& t) { return t.rows > 64 ? t.rows / 4 : t.rows; }
TFCOMPRESS_INLINE constexpr int64_t GemmSharedBytes(const GemmTile& t, int words, int compute_capability) {
  const int64_t stages = GemmStages(t, compute_capability) * GemmStageBytes(t, words);
  const int64_t epilogue = int64_t{GemmEpilogueRows(t)} * (t.columns + 4) * 4;
  return stages > epilogue ? stages : epilogue;
}

struct GemmPlan {
  int tile = 0;        // row of the table
  int64_t splits = 1;  // parts of K, each of `stages` stages (the last may be shorter)
  int64_t stages = 0;
  int64_t blocks = 0;
};

// What a table of tiles multiplies: 64 bytes of a row of x and `words` words of every output make a stage.
struct GemmTable {
  const GemmTile* tiles;
  int count;
  int words;
};

// The tile and number of splits whose slowest multiprocessor is estimated to end first. `stages`: of all of K.
GemmPlan PlanGemm(const GemmTable& table, int64_t m, int64_t stages, int64_t n, const CudaDevice& device);

// What a multiprocessor does in a cycle, from 7.5 to 9.0 within a factor of two of each other and of this; only their ratios choose a tile.
inline constexpr double kGemmBytesPerCycle = 24;    // from L2, when all multiprocessors read
inline constexpr double kGemmBlockCycles = 1500;    // launch, filling the pipeline, epilogue
inline constexpr int64_t kLeastSplitStages = 4;     // below it filling the pipeline costs more than the parts gain
inline constexpr int64_t kMostSplits = 16;
// Sums of parts go through memory once more: written, read.
double SplitCycles(int64_t m, int64_t n, int64_t splits, const CudaDevice& device);

// Float32 multiply-adds on weights that are decoded into shared memory: one tile for every format.
inline constexpr int kFloatTileRows = 64;
inline constexpr int kFloatTileColumns = 64;  // a panel
inline constexpr int kFloatTileDepth = 32;
inline constexpr int kFloatTileThreads = 128;  // 8 rows x 4 outputs each: 3 loads of 16 bytes for 32 multiply-adds

struct FloatPlan {
  int64_t splits = 1;
  int64_t depth = 0;  // of K, a multiple of kFloatTileDepth
  int64_t blocks = 0;
};
FloatPlan PlanFloat(int64_t m, int64_t k, int64_t n, const CudaDevice& device);

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_CUDA_TILES_H_
