// y [m, n] for m > 8 on tensor cores: x_q [m, k] (signed bytes) times packed weights (unsigned bytes), sums exact in int32. See cuda.h for the
// tiles and where operands lie in shared memory.
#include "formats/int8/cuda_kernels.cuh"

namespace tfcompress::int8 {
namespace {

constexpr int kStageGroups = kGemmDepth / kGroup;
// Blocks that run at the same time share weights and activations in L2: bands of so many row tiles pass over the columns together.
constexpr int64_t kBand = 8;

// The tile that a block computes.
struct TilePlace {
  int64_t row, column, split;
};

TFCOMPRESS_DEVICE TilePlace PlaceOf(int64_t block, int64_t row_tiles, int64_t column_tiles, const GemmTile& tile) {
  const int64_t tiles = row_tiles * column_tiles;
  const int64_t in_split = block % tiles;
  const int64_t band = in_split / (kBand * column_tiles), in_band = in_split % (kBand * column_tiles);
  const int64_t left = row_tiles - band * kBand;
  const int64_t height = left < kBand ? left : kBand;
  return {(band * kBand + in_band % height) * tile.rows, in_band / height * tile.columns, block / tiles};
}

// Brings stages of both operands into shared memory. With cp.async Start() does it all and WaitCopies() tells when; without, Start() loads into
// registers and Finish(), after the stage before has been multiplied, writes them.
template <int kTile>
class StageCopies {
  static constexpr GemmTile kT = kGemmTiles[kTile];
  static constexpr int kThreads = GemmThreads(kT);
  static constexpr int kXRowsAtATime = kThreads / 4;  // 4 copies a row
  static constexpr int kXCopies = (kT.rows + kXRowsAtATime - 1) / kXRowsAtATime;
  static constexpr int kAcross = kT.columns / 4;  // copies of a group
  static constexpr int kGroupsAtATime = kThreads / kAcross;
  static constexpr int kWeightCopies = kStageGroups / kGroupsAtATime;
  static_assert(kXRowsAtATime % 8 == 0, "a thread's rows have the same place for a piece");
  static_assert(kThreads % kAcross == 0 && kStageGroups % kGroupsAtATime == 0, "a thread copies the words of four outputs, of several groups");

 public:
  static constexpr int kWeightsAt = kT.rows * kGemmDepth;
  static constexpr int kWeightsRowBytes = (kT.columns + kWeightsPadding) * 4;

  TFCOMPRESS_DEVICE StageCopies(const CudaProblem& p, const TilePlace& place, int64_t first_k) {
    const int thread = ThreadIndex();
    x_row_ = thread / 4;
    x_rows_ = static_cast<int>(p.m - place.row < kT.rows ? p.m - place.row : kT.rows);
    x_step_bytes_ = kXRowsAtATime * p.x_q_stride;
    x_ = p.x_q + (place.row + x_row_) * p.x_q_stride + first_k + thread % 4 * 16;
    x_to_ = x_row_ * kGemmDepth + (thread % 4 ^ x_row_ / 2 % 4) * 16;
    const WeightColumns weights = WeightColumnsAt(p, place.column + thread % kAcross * 4);
    const int group = thread / kAcross;
    groups_left_ = weights.exists ? static_cast<int>(p.groups - first_k / kGroup) - group : 0;
    step_bytes_ = static_cast<int>(weights.step_bytes);
    weights_ = weights.first + (first_k / kGroup + group) * weights.step_bytes;
    weights_to_ = kWeightsAt + group * kWeightsRowBytes + thread % kAcross * 16;
  }

  // The next stage.
  TFCOMPRESS_DEVICE void Start(char* to) {
#pragma unroll
    for (int c = 0; c < kXCopies; ++c) {
      const int row = x_row_ + c * kXRowsAtATime;
      if (row < kT.rows) Copy(to + x_to_ + c * kXRowsAtATime * kGemmDepth, x_ + c * x_step_bytes_, row < x_rows_, c);
    }
#pragma unroll
    for (int c = 0; c < kWeightCopies; ++c) {
      Copy(to + weights_to_ + c * kGroupsAtATime * kWeightsRowBytes, weights_ + c * kGroupsAtATime * step_bytes_, c * kGroupsAtATime < groups_left_,
           kXCopies + c);
    }
    x_ += kGemmDepth;
    weights_ += kStageGroups * step_bytes_;
    groups_left_ -= kStageGroups;
  }

  TFCOMPRESS_DEVICE void Finish(char* to) {
    if constexpr (!kHasCopyAsync) {
#pragma unroll
      for (int c = 0; c < kXCopies; ++c) {
        if (x_row_ + c * kXRowsAtATime < kT.rows) StoreShared(to + x_to_ + c * kXRowsAtATime * kGemmDepth, loaded_[c]);
      }
#pragma unroll
      for (int c = 0; c < kWeightCopies; ++c) {
        StoreShared(to + weights_to_ + c * kGroupsAtATime * kWeightsRowBytes, loaded_[kXCopies + c]);
      }
    }
  }

 private:
  // What does not exist becomes 0; its address is not used.
  TFCOMPRESS_DEVICE void Copy(char* to, const uint8_t* from, bool exists, int slot) {
    if constexpr (kHasCopyAsync) {
      CopyAsync(to, from, exists ? 16 : 0);
    } else {
      loaded_[slot] = {{0, 0, 0, 0}};
      if (exists) loaded_[slot] = LoadWordsReadOnly<4>(from);
    }
  }

  const uint8_t* x_;
  const uint8_t* weights_;
  int64_t x_step_bytes_;
  int step_bytes_, x_row_, x_rows_, groups_left_;
  int x_to_, weights_to_;
  Words4 loaded_[kXCopies + kWeightCopies];
};

// The sums of a warp. Weights are the left operand of mma, activations the right one, y transposed: then every operand of mma is loaded into
// neighbouring registers, as it needs them (the other way round half of all instructions moved registers). Row r of mma j stands for output
// 16 * j + 2 * r, row r + 8 for the next one: a lane's words of both are one 64-bit load.
template <int kTile>
struct WarpSums {
  static constexpr GemmTile kT = kGemmTiles[kTile];
  static constexpr int kSlabs = kT.warp_rows / 16;   // of 16 rows of x: two mma, one ldmatrix
  static constexpr int kWide = kT.warp_columns / 16;
  static constexpr int kWeightsStride = kT.columns + kWeightsPadding;  // words

  TFCOMPRESS_DEVICE WarpSums() {
    constexpr int kAcross = kT.columns / kT.warp_columns;
    const int warp = ThreadIndex() / 32;
    row = warp / kAcross * kT.warp_rows;
    column = warp % kAcross * kT.warp_columns;
  }

  TFCOMPRESS_DEVICE void MultiplyStage(const char* stage) {
    const int lane = ThreadIndex() % 32;
    const char* x = stage + (row + lane / 16 * 8 + lane % 8) * kGemmDepth;
    const int piece = lane / 8 % 2 ^ lane % 8 / 2;  // of k 0-15 or 16-31, in its place
    const uint32_t* weights =
        reinterpret_cast<const uint32_t*>(stage + StageCopies<kTile>::kWeightsAt) + lane % 4 * kWeightsStride + column + lane / 4 * 2;
#pragma unroll
    for (int s = 0; s < kGemmDepth / 32; ++s) {
      uint32_t b[kSlabs][4];  // k 0-15 and 16-31 of rows 0-7, then of rows 8-15
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) LoadMatrices(b[i], x + i * 16 * kGemmDepth + (piece ^ 2 * s) * 16);
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
        const Words<2> low = LoadWords<2>(weights + s * 8 * kWeightsStride + j * 16);
        const Words<2> high = LoadWords<2>(weights + (s * 8 + 4) * kWeightsStride + j * 16);
        const uint32_t a[4] = {low.v[0], low.v[1], high.v[0], high.v[1]};
#pragma unroll
        for (int i = 0; i < kSlabs; ++i) {
          MultiplyAddMatrices(sums[i][0][j], a, b[i][0], b[i][1]);
          MultiplyAddMatrices(sums[i][1][j], a, b[i][2], b[i][3]);
        }
      }
    }
  }

  // Writes the sums of slab i to `to`, [16 rows][columns + 4] words, beginning at the block's first output.
  TFCOMPRESS_DEVICE void Write(int i, uint32_t* to) const {
    const int lane = ThreadIndex() % 32;
    uint32_t* const first = to + lane % 4 * 2 * (kT.columns + 4) + column + lane / 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const auto word = [&](int c) { return static_cast<uint32_t>(sums[i][half][j][r + 2 * c]); };
          StoreShared<2>(first + (8 * half + r) * (kT.columns + 4) + 16 * j, {{word(0), word(1)}});
        }
      }
    }
  }

  int row, column;  // in the block's tile
  int32_t sums[kSlabs][2][kWide][4] = {};
};

template <int kTile>
TFCOMPRESS_GLOBAL(GemmThreads(kGemmTiles[kTile]), kGemmTiles[kTile].blocks)
GemmKernel(CudaProblem p, int64_t depth, int64_t row_tiles, int64_t column_tiles) {
  constexpr GemmTile kT = kGemmTiles[kTile];
  constexpr int kStages = GemmStages(kT, kHasCopyAsync ? 80 : 75);
  constexpr int64_t kStageBytes = GemmStageBytes(kT);
  char* const shared = SharedMemory();
  const TilePlace place = PlaceOf(BlockIndex(), row_tiles, column_tiles, kT);
  const int64_t first_k = place.split * depth;
  const int64_t k = p.k - first_k < depth ? p.k - first_k : depth;
  const int stages = static_cast<int>((k + kGemmDepth - 1) / kGemmDepth);

  StageCopies<kTile> copies(p, place, first_k);
  WarpSums<kTile> warp;
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < stages) {
      copies.Start(shared + s * kStageBytes);
      copies.Finish(shared + s * kStageBytes);
    }
    CommitCopies();
  }
  int slot = 0, free_slot = kStages - 1;
#pragma unroll 1
  for (int s = 0; s < stages; ++s) {
    WaitCopies<kStages - 2>();
    SyncThreads();  // stage s has arrived for everybody, and everybody has multiplied stage s - 1, whose memory the next copies take
    const bool more = s + kStages - 1 < stages;
    if (more) copies.Start(shared + free_slot * kStageBytes);
    CommitCopies();
    warp.MultiplyStage(shared + slot * kStageBytes);
    if (more) copies.Finish(shared + free_slot * kStageBytes);
    slot = slot + 1 == kStages ? 0 : slot + 1;
    free_slot = free_slot + 1 == kStages ? 0 : free_slot + 1;
  }
  // The groups that nobody has waited for are empty.

  // Through shared memory, so that the epilogue is one loop that stores whole lines, for any number of sums a thread.
  constexpr int kRows = GemmEpilogueRows(kT);
  constexpr int kAcross = kT.columns / 4;
  uint32_t* const staged = reinterpret_cast<uint32_t*>(shared);
#pragma unroll 1
  for (int pass = 0; pass < kT.rows / kRows; ++pass) {
    SyncThreads();  // what lay there has been read
#pragma unroll
    for (int i = 0; i < WarpSums<kTile>::kSlabs; ++i) {
      const int row = warp.row + 16 * i - pass * kRows;
      if (row >= 0 && row < kRows) warp.Write(i, staged + row * (kT.columns + 4));
    }
    SyncThreads();
#pragma unroll 1
    for (int i = ThreadIndex(); i < kRows * kAcross; i += GemmThreads(kT)) {
      const int64_t row = place.row + pass * kRows + i / kAcross;
      const int64_t column = place.column + i % kAcross * 4;
      if (row >= p.m || column >= p.n) continue;
      const Words4 words = LoadWords<4>(staged + i / kAcross * (kT.columns + 4) + i % kAcross * 4);
      if (p.partial_sums != nullptr) {
        StoreGlobal(static_cast<uint32_t*>(p.partial_sums) + (place.split * p.m + row) * p.partial_stride + column, words);
        continue;
      }
      int32_t sums[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[c] = static_cast<int32_t>(words.v[c]);
      FinishIntegerFour(p, row, column, sums, p.row_scales[row]);
    }
  }
}

constexpr int kFinishThreads = 128;

// Adds the sums of all parts of K. A thread for four outputs.
TFCOMPRESS_GLOBAL(kFinishThreads, 4)
FinishSplitsKernel(CudaProblem p, int splits) {
  const int64_t across = p.partial_stride / 4;
  const int64_t i = BlockIndex() * kFinishThreads + ThreadIndex();
  const int64_t row = i / across, column = i % across * 4;
  if (row >= p.m) return;
  int32_t sums[4] = {};
  for (int s = 0; s < splits; ++s) {
    const uint32_t* from = static_cast<const uint32_t*>(p.partial_sums) + (s * p.m + row) * p.partial_stride + column;
    const Words4 part = LoadWordsReadOnly<4>(from);
#pragma unroll
    for (int c = 0; c < 4; ++c) sums[c] += static_cast<int32_t>(part.v[c]);
  }
  FinishIntegerFour(p, row, column, sums, p.row_scales[row]);
}

}  // namespace

std::string LaunchGemm(const CudaProblem& p, const GemmPlan& plan, const CudaDevice& device, void* stream) {
  using Kernel = void (*)(CudaProblem, int64_t, int64_t, int64_t);
  constexpr Kernel kKernels[] = {GemmKernel<0>, GemmKernel<1>, GemmKernel<2>, GemmKernel<3>, GemmKernel<4>};
  static_assert(sizeof(kKernels) / sizeof(kKernels[0]) == kNumGemmTiles, "a kernel for each row of the table");
  const GemmTile& tile = kGemmTiles[plan.tile];
  const int64_t row_tiles = (p.m + tile.rows - 1) / tile.rows, column_tiles = (p.n + tile.columns - 1) / tile.columns;
  const std::string error = LaunchKernel("int8 GEMM", kKernels[plan.tile], plan.blocks, GemmThreads(tile),
                                         GemmSharedBytes(tile, device.compute_capability), stream, p, plan.depth, row_tiles, column_tiles);
  if (!error.empty() || plan.splits == 1) return error;
  const int64_t threads = p.m * (p.partial_stride / 4);
  return LaunchKernel("int8 sums of splits", FinishSplitsKernel, (threads + kFinishThreads - 1) / kFinishThreads, kFinishThreads, 0, stream, p,
                      static_cast<int>(plan.splits));
}

}  // namespace tfcompress::int8
