// y [m, n] on tensor cores, for formats whose weights are panels of words (base/cuda_panels.cuh): x_q [m, bytes] times words, sums exact in int32.
//
// A Product says what the bytes mean:
//     Problem, Tile(i), kWords       what a kernel gets; the format's table; words of each output that belong to 64 bytes of a row of x
//     LoadWeights<stride>(words, s, c, a)   lane c of a column's four lanes: the left operand of mma for the s-th half of the stage, of two outputs whose
//                                    words begin at `words`, rows of them `stride` words apart
//     MultiplyAdd(sums, a, b0, b1)   one mma of 16 outputs, 32 bytes of K and 8 rows of x
//     kMasksLastWord                 bits of the last word beyond K would count: p.last_word_mask clears them
//     kCountsWeights                 see WarpSums
//     Finish(p, row, column, exists, sums)  what follows the sums of four outputs; called by whole warps
//
// x_q lies row by row in shared memory, four pieces of 16 bytes a row; row r's piece c is in place c ^ (r / 2 % 4), so that neither the copies, two whole
// rows at a time, nor ldmatrix, the same piece of eight rows, meet bank conflicts. Weights lie as they are packed, a row for the words of the same k,
// columns + 8 words apart: a lane's 64-bit load of two outputs' words is free of conflicts too (8 g + 2 c mod 32).
#ifndef TFCOMPRESS_BASE_CUDA_PANELS_GEMM_CUH_
#define TFCOMPRESS_BASE_CUDA_PANELS_GEMM_CUH_

#include "base/cuda_panels.cuh"
#include "base/cuda_tiles.h"

namespace tfcompress {
namespace {

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
template <class Product, int kTile>
class StageCopies {
  static constexpr GemmTile kT = Product::Tile(kTile);
  static constexpr int kThreads = GemmThreads(kT);
  static constexpr int kXRowsAtATime = kThreads / 4;  // 4 copies a row
  static constexpr int kXCopies = (kT.rows + kXRowsAtATime - 1) / kXRowsAtATime;
  static constexpr int kAcross = kT.columns / 4;  // copies of a row of words
  static constexpr int kWordsAtATime = kThreads / kAcross;
  static constexpr int kWeightCopies = (Product::kWords + kWordsAtATime - 1) / kWordsAtATime;
  static_assert(kXRowsAtATime % 8 == 0, "a thread's rows have the same place for a piece");
  static_assert(kThreads % kAcross == 0, "a thread copies the words of four outputs");
  static_assert(Product::kWords % kWordsAtATime == 0 || kWeightCopies == 1, "either all threads copy equally often, or some once and some not at all");

 public:
  static constexpr int kWeightsAt = kT.rows * kStageXBytes;
  static constexpr int kWeightsRowBytes = (kT.columns + kWeightsPadding) * 4;

  TFCOMPRESS_DEVICE StageCopies(const PanelProblem& p, const TilePlace& place, int64_t first_stage) {
    const int thread = ThreadIndex();
    x_row_ = thread / 4;
    x_rows_ = static_cast<int>(p.m - place.row < kT.rows ? p.m - place.row : kT.rows);
    x_step_bytes_ = kXRowsAtATime * p.x_q_stride;
    x_ = p.x_q + (place.row + x_row_) * p.x_q_stride + first_stage * kStageXBytes + thread % 4 * 16;
    x_to_ = x_row_ * kStageXBytes + (thread % 4 ^ x_row_ / 2 % 4) * 16;
    const WeightColumns weights = WeightColumnsAt(p, place.column + thread % kAcross * 4);
    word_ = thread / kAcross;
    const int64_t word = first_stage * Product::kWords + word_;
    words_left_ = weights.exists ? static_cast<int>(p.words - word) : 0;
    step_bytes_ = static_cast<int>(weights.step_bytes);
    weights_ = weights.first + word * weights.step_bytes;
    weights_to_ = kWeightsAt + word_ * kWeightsRowBytes + thread % kAcross * 16;
  }

  // The next stage.
  TFCOMPRESS_DEVICE void Start(char* to) {
#pragma unroll
    for (int c = 0; c < kXCopies; ++c) {
      const int row = x_row_ + c * kXRowsAtATime;
      if (row < kT.rows) Copy(to + x_to_ + c * kXRowsAtATime * kStageXBytes, x_ + c * x_step_bytes_, row < x_rows_, c);
    }
#pragma unroll
    for (int c = 0; c < kWeightCopies; ++c) {
      if (!Copies()) continue;
      Copy(to + weights_to_ + c * kWordsAtATime * kWeightsRowBytes, weights_ + c * kWordsAtATime * step_bytes_, c * kWordsAtATime < words_left_,
           kXCopies + c);
    }
    x_ += kStageXBytes;
    weights_ += Product::kWords * step_bytes_;
    words_left_ -= Product::kWords;
  }

  TFCOMPRESS_DEVICE void Finish(char* to) {
    if constexpr (!kHasCopyAsync) {
#pragma unroll
      for (int c = 0; c < kXCopies; ++c) {
        if (x_row_ + c * kXRowsAtATime < kT.rows) StoreShared(to + x_to_ + c * kXRowsAtATime * kStageXBytes, loaded_[c]);
      }
#pragma unroll
      for (int c = 0; c < kWeightCopies; ++c) {
        if (Copies()) StoreShared(to + weights_to_ + c * kWordsAtATime * kWeightsRowBytes, loaded_[kXCopies + c]);
      }
    }
  }

 private:
  // Where a stage has fewer words than threads take at a time, some have none to copy.
  TFCOMPRESS_DEVICE bool Copies() const { return Product::kWords % kWordsAtATime == 0 || word_ < Product::kWords; }
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
  int step_bytes_, x_row_, x_rows_, word_, words_left_;
  int x_to_, weights_to_;
  Words4 loaded_[kXCopies + kWeightCopies];
};

// The sums of a warp. Weights are the left operand of mma, activations the right one, y transposed: then every operand of mma is loaded into
// neighbouring registers, as it needs them (the other way round half of all instructions moved registers). Row r of mma j stands for output
// 16 * j + 2 * r, row r + 8 for the next one: a lane's words of both are one 64-bit load.
template <class Product, int kTile>
struct WarpSums {
  static constexpr GemmTile kT = Product::Tile(kTile);
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
    const char* x = stage + (row + lane / 16 * 8 + lane % 8) * kStageXBytes;
    const int piece = lane / 8 % 2 ^ lane % 8 / 2;  // of k 0-15 or 16-31, in its place
    const uint32_t* weights = reinterpret_cast<const uint32_t*>(stage + StageCopies<Product, kTile>::kWeightsAt) + column + lane / 4 * 2;
#pragma unroll
    for (int s = 0; s < kStageXBytes / 32; ++s) {
      uint32_t b[kSlabs][4];  // k 0-15 and 16-31 of rows 0-7, then of rows 8-15
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) LoadMatrices(b[i], x + i * 16 * kStageXBytes + (piece ^ 2 * s) * 16);
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
        uint32_t a[4];
        Product::template LoadWeights<kWeightsStride>(weights + j * 16, s, lane % 4, a);
        if constexpr (Product::kCountsWeights) Product::MultiplyAdd(counts[j], a, 0xffffffffu, 0xffffffffu);
#pragma unroll
        for (int i = 0; i < kSlabs; ++i) {
          Product::MultiplyAdd(sums[i][0][j], a, b[i][0], b[i][1]);
          Product::MultiplyAdd(sums[i][1][j], a, b[i][2], b[i][3]);
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
          const auto word = [&](int c) {
            const int32_t sum = sums[i][half][j][r + 2 * c];
            if constexpr (Product::kCountsWeights) return static_cast<uint32_t>(counts[j][r + 2 * c] - 2 * sum);
            return static_cast<uint32_t>(sum);
          };
          StoreShared<2>(first + (8 * half + r) * (kT.columns + 4) + 16 * j, {{word(0), word(1)}});
        }
      }
    }
  }

  int row, column;  // in the block's tile
  int32_t sums[kSlabs][2][kWide][4] = {};
  // Product::kCountsWeights: how many bits of the weights are set, by another product: of the weights and ones. counts - 2 * sums is written.
  int32_t counts[Product::kCountsWeights ? kWide : 1][4] = {};
};

// A Product's LoadWeights where 32 bytes of K are 8 words: k 4 c ... of two outputs, then k 16 + 4 c ...
template <int kStride>
TFCOMPRESS_DEVICE void LoadEightWords(const uint32_t* words, int s, int c, uint32_t (&a)[4]) {
  const Words<2> low = LoadWords<2>(words + (s * 8 + c) * kStride);
  const Words<2> high = LoadWords<2>(words + (s * 8 + 4 + c) * kStride);
  a[0] = low.v[0];
  a[1] = low.v[1];
  a[2] = high.v[0];
  a[3] = high.v[1];
}

// Clears those bits of an output's last word that stand for no weight, in the stage that holds it.
template <class Product, int kTile>
TFCOMPRESS_DEVICE void MaskLastWord(const typename Product::Problem& p, char* stage, int64_t first_word) {
  constexpr GemmTile kT = Product::Tile(kTile);
  char* const row = stage + StageCopies<Product, kTile>::kWeightsAt + (p.words - 1 - first_word) * StageCopies<Product, kTile>::kWeightsRowBytes;
#pragma unroll 1
  for (int i = ThreadIndex(); i < kT.columns; i += GemmThreads(kT)) reinterpret_cast<uint32_t*>(row)[i] &= p.last_word_mask;
}

template <class Product, int kTile>
TFCOMPRESS_DEVICE void Gemm(const typename Product::Problem& p, int64_t stages_of_split, int64_t row_tiles, int64_t column_tiles) {
  constexpr GemmTile kT = Product::Tile(kTile);
  constexpr int kStages = GemmStages(kT, kHasCopyAsync ? 80 : 75);
  constexpr int64_t kStageBytes = GemmStageBytes(kT, Product::kWords);
  char* const shared = SharedMemory();
  const TilePlace place = PlaceOf(BlockIndex(), row_tiles, column_tiles, kT);
  const int64_t first_stage = place.split * stages_of_split;
  const int64_t all_stages = (p.words + Product::kWords - 1) / Product::kWords;
  const int stages = static_cast<int>(all_stages - first_stage < stages_of_split ? all_stages - first_stage : stages_of_split);

  StageCopies<Product, kTile> copies(p, place, first_stage);
  WarpSums<Product, kTile> warp;
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
    if constexpr (Product::kMasksLastWord) {
      if (p.last_word_mask != 0xffffffffu && first_stage + s == all_stages - 1) {
        MaskLastWord<Product, kTile>(p, shared + slot * kStageBytes, (first_stage + s) * Product::kWords);
        SyncThreads();
      }
    }
    warp.MultiplyStage(shared + slot * kStageBytes);
    if (more) copies.Finish(shared + free_slot * kStageBytes);
    slot = slot + 1 == kStages ? 0 : slot + 1;
    free_slot = free_slot + 1 == kStages ? 0 : free_slot + 1;
  }
  // The groups that nobody has waited for are empty.

  // Through shared memory, so that the epilogue is one loop that stores whole lines, for any number of sums a thread.
  constexpr int kRows = GemmEpilogueRows(kT);
  constexpr int kAcross = kT.columns / 4;
  static_assert(kRows * kAcross % GemmThreads(kT) == 0, "all threads pass the loop below equally often: Finish may exchange between lanes");
  uint32_t* const staged = reinterpret_cast<uint32_t*>(shared);
#pragma unroll 1
  for (int pass = 0; pass < kT.rows / kRows; ++pass) {
    SyncThreads();  // what lay there has been read
#pragma unroll
    for (int i = 0; i < WarpSums<Product, kTile>::kSlabs; ++i) {
      const int row = warp.row + 16 * i - pass * kRows;
      if (row >= 0 && row < kRows) warp.Write(i, staged + row * (kT.columns + 4));
    }
    SyncThreads();
#pragma unroll 1
    for (int i = ThreadIndex(); i < kRows * kAcross; i += GemmThreads(kT)) {
      const int64_t row = place.row + pass * kRows + i / kAcross;
      const int64_t column = place.column + i % kAcross * 4;
      const bool exists = row < p.m && column < p.n;
      const Words4 words = LoadWords<4>(staged + i / kAcross * (kT.columns + 4) + i % kAcross * 4);
      if (p.partial_sums != nullptr) {
        if (exists) StoreGlobal(static_cast<uint32_t*>(p.partial_sums) + (place.split * p.m + row) * p.partial_stride + column, words);
        continue;
      }
      int32_t sums[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[c] = static_cast<int32_t>(words.v[c]);
      Product::Finish(p, row, column, exists, sums);
    }
  }
}

constexpr int kFinishThreads = 128;

// Adds the sums of all parts of K. A thread for four outputs.
template <class Product>
TFCOMPRESS_DEVICE void FinishSplits(const typename Product::Problem& p, int splits) {
  const int64_t across = p.partial_stride / 4;
  const int64_t i = BlockIndex() * kFinishThreads + ThreadIndex();
  const int64_t row = i / across, column = i % across * 4;
  const bool exists = row < p.m && column < p.n;
  int32_t sums[4] = {};
  if (exists) {
    for (int s = 0; s < splits; ++s) {
      const uint32_t* from = static_cast<const uint32_t*>(p.partial_sums) + (s * p.m + row) * p.partial_stride + column;
      const Words4 part = LoadWordsReadOnly<4>(from);
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[c] += static_cast<int32_t>(part.v[c]);
    }
  }
  Product::Finish(p, row, column, exists, sums);
}

// A launch of kernels[plan.tile], and where K is split of finish_splits. `name` for messages.
template <class Problem, size_t kTiles>
std::string LaunchPanelGemm(const char* name, void (*const (&kernels)[kTiles])(Problem, int64_t, int64_t, int64_t), void (*finish_splits)(Problem, int),
                            const GemmTable& table, const Problem& p, const GemmPlan& plan, const CudaDevice& device, void* stream) {
  const GemmTile& tile = table.tiles[plan.tile];
  const int64_t row_tiles = (p.m + tile.rows - 1) / tile.rows, column_tiles = (p.n + tile.columns - 1) / tile.columns;
  const std::string error = LaunchKernel(name, kernels[plan.tile], plan.blocks, GemmThreads(tile),
                                         GemmSharedBytes(tile, table.words, device.compute_capability), stream, p, plan.stages, row_tiles, column_tiles);
  if (!error.empty() || plan.splits == 1) return error;
  const int64_t threads = p.m * (p.partial_stride / 4);
  return LaunchKernel((std::string(name) + ", sums of splits").c_str(), finish_splits, (threads + kFinishThreads - 1) / kFinishThreads, kFinishThreads, 0,
                      stream, p, static_cast<int>(plan.splits));
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_CUDA_PANELS_GEMM_CUH_
