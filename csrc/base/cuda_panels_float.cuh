// y [m, n] with float activations, for formats whose weights are panels of words (base/cuda_panels.cuh): float32 multiply-adds on weights that are decoded
// into shared memory. `Weights` is what FloatGemv describes.
#ifndef TFCOMPRESS_BASE_CUDA_PANELS_FLOAT_CUH_
#define TFCOMPRESS_BASE_CUDA_PANELS_FLOAT_CUH_

#include "base/cuda_panels.cuh"
#include "base/cuda_tiles.h"

namespace tfcompress {
namespace {

constexpr int kThreadRows = 8;
constexpr int kAcross = kFloatTileColumns / 4;
constexpr int kXStride = kFloatTileRows + 4;  // floats; rows of x lie as columns: [depth][rows + 4]
constexpr int kQuads = kFloatTileDepth / 4;
constexpr int kXLoads = kFloatTileRows * kQuads / kFloatTileThreads;
constexpr int64_t kWeightsAt = kFloatTileDepth * kXStride * 4;
constexpr int64_t kRowSumsAt = kWeightsAt + kFloatTileDepth * kFloatTileColumns * 4;
constexpr int64_t kFloatSharedBytes = kRowSumsAt + kFloatTileRows * 4;
static_assert(kFloatTileThreads == kFloatTileRows / kThreadRows * kAcross, "8 rows x 4 outputs for each thread");
static_assert(kFloatTileThreads == kQuads * kAcross, "a thread decodes four weights of four outputs");
static_assert(kFloatTileRows * kFloatTileColumns * 4 <= kRowSumsAt, "the sums fit where the operands lay");

// The next stage's operands, on their way through registers.
struct FloatStage {
  float x[kXLoads][4];
  Words4 weights;
};

// x of rows [row, row + 64) and weights of four outputs, from k on.
template <class Weights>
TFCOMPRESS_DEVICE void LoadStage(const PanelProblem& p, const WeightColumns& weights, int64_t row, int64_t k, int64_t end, FloatStage* stage) {
  const int thread = ThreadIndex();
#pragma unroll
  for (int l = 0; l < kXLoads; ++l) {
    const int i = thread + l * kFloatTileThreads;
    const int64_t r = row + i / kQuads, first = k + i % kQuads * 4;
#pragma unroll
    for (int j = 0; j < 4; ++j) stage->x[l][j] = 0.0f;
    if (r < p.m && first < end) LoadFour(p.x, r, first, stage->x[l]);
  }
  const int64_t of_k = k + thread / kAcross * 4;
  stage->weights = {{0, 0, 0, 0}};
  if (!weights.exists || of_k >= end) return;
  stage->weights = LoadStreaming(weights.first + of_k / Weights::kDepth * weights.step_bytes);
#pragma unroll
  for (int c = 0; c < 4; ++c) stage->weights.v[c] = Weights::From(stage->weights.v[c], static_cast<int>(of_k % Weights::kDepth));
}

template <class Weights>
TFCOMPRESS_DEVICE void StoreStage(const FloatStage& stage, float* x, float* weights) {
  const int thread = ThreadIndex();
#pragma unroll
  for (int l = 0; l < kXLoads; ++l) {
    const int i = thread + l * kFloatTileThreads;
#pragma unroll
    for (int j = 0; j < 4; ++j) x[(i % kQuads * 4 + j) * kXStride + i / kQuads] = stage.x[l][j];
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const auto w = [&](int c) { return BitCast<uint32_t>(Weights::Decode(stage.weights.v[c], j)); };
    StoreShared<4>(weights + (thread / kAcross * 4 + j) * kFloatTileColumns + thread % kAcross * 4, {{w(0), w(1), w(2), w(3)}});
  }
}

// What follows the sums of a row's four outputs; with K split they are stored as they are. The row sums of the parts add up in the column
// behind the outputs.
template <class Weights>
TFCOMPRESS_DEVICE void FloatGemm(const PanelProblem& p, int64_t depth, int64_t row_tiles, int64_t column_tiles) {
  float* const x = reinterpret_cast<float*>(SharedMemory());
  float* const weights = reinterpret_cast<float*>(SharedMemory() + kWeightsAt);
  float* const row_sums = reinterpret_cast<float*>(SharedMemory() + kRowSumsAt);
  const int64_t tiles = row_tiles * column_tiles;
  const int64_t split = BlockIndex() / tiles;
  const int64_t row = BlockIndex() % tiles % row_tiles * kFloatTileRows, column = BlockIndex() % tiles / row_tiles * kFloatTileColumns;
  const int64_t begin = split * depth, end = begin + depth < p.k ? begin + depth : p.k;
  const int thread = ThreadIndex(), c4 = thread % kAcross * 4, r8 = thread / kAcross * kThreadRows;
  const WeightColumns columns = WeightColumnsAt(p, column + c4);
  float sums[kThreadRows][4] = {};
  float of_rows[kThreadRows] = {};
  FloatStage stage;
  LoadStage<Weights>(p, columns, row, begin, end, &stage);
  for (int64_t k = begin; k < end; k += kFloatTileDepth) {
    StoreStage<Weights>(stage, x, weights);
    SyncThreads();
    LoadStage<Weights>(p, columns, row, k + kFloatTileDepth, end, &stage);
#pragma unroll 4
    for (int d = 0; d < kFloatTileDepth; ++d) {
      const Words4 w = LoadWords<4>(weights + d * kFloatTileColumns + c4);
#pragma unroll
      for (int h = 0; h < kThreadRows; h += 4) {
        const Words4 v = LoadWords<4>(x + d * kXStride + r8 + h);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          of_rows[h + r] += BitCast<float>(v.v[r]);
#pragma unroll
          for (int c = 0; c < 4; ++c) sums[h + r][c] = FusedMultiplyAdd(BitCast<float>(v.v[r]), BitCast<float>(w.v[c]), sums[h + r][c]);
        }
      }
    }
    SyncThreads();  // before the next stage is stored
  }
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
    const auto word = [&](int c) { return BitCast<uint32_t>(sums[r][c]); };
    StoreShared<4>(x + (r8 + r) * kFloatTileColumns + c4, {{word(0), word(1), word(2), word(3)}});
    if (c4 == 0) row_sums[r8 + r] = of_rows[r];
  }
  SyncThreads();
#pragma unroll 1
  for (int i = thread; i < kFloatTileRows * kAcross; i += kFloatTileThreads) {
    const int r = i / kAcross, c = i % kAcross * 4;
    if (row + r >= p.m || column + c >= p.n) continue;
    const Words4 words = LoadWords<4>(x + r * kFloatTileColumns + c);
    if (p.partial_sums != nullptr) {
      float* to = static_cast<float*>(p.partial_sums) + (split * p.m + row + r) * p.partial_stride;
      StoreGlobal(to + column + c, words);
      if (column + c == 0) to[p.partial_stride - 4] = row_sums[r];
      continue;
    }
    const float four[4] = {BitCast<float>(words.v[0]), BitCast<float>(words.v[1]), BitCast<float>(words.v[2]), BitCast<float>(words.v[3])};
    FinishFour(p.epilogue, row + r, column + c, four, 1.0f, row_sums[r]);
  }
}

constexpr int kFloatFinishThreads = 128;

TFCOMPRESS_DEVICE void FinishFloatSplits(const PanelProblem& p, int splits) {
  const int64_t across = p.partial_stride / 4 - 1;
  const int64_t i = BlockIndex() * kFloatFinishThreads + ThreadIndex();
  const int64_t row = i / across, column = i % across * 4;
  if (row >= p.m) return;
  float sums[4] = {};
  float row_sum = 0.0f;
  for (int s = 0; s < splits; ++s) {
    const float* from = static_cast<const float*>(p.partial_sums) + (s * p.m + row) * p.partial_stride;
    row_sum += LoadReadOnly(from + p.partial_stride - 4);
    const Words4 part = LoadWordsReadOnly<4>(from + column);
#pragma unroll
    for (int c = 0; c < 4; ++c) sums[c] += BitCast<float>(part.v[c]);
  }
  FinishFour(p.epilogue, row, column, sums, 1.0f, row_sum);
}

// A launch of `gemm`, and where K is split of finish_splits. `name` for messages.
inline std::string LaunchPanelFloatGemm(const char* name, void (*gemm)(PanelProblem, int64_t, int64_t, int64_t), void (*finish_splits)(PanelProblem, int),
                                        const PanelProblem& p, const FloatPlan& plan, void* stream) {
  const int64_t row_tiles = (p.m + kFloatTileRows - 1) / kFloatTileRows, column_tiles = (p.n + kFloatTileColumns - 1) / kFloatTileColumns;
  const std::string error =
      LaunchKernel(name, gemm, plan.blocks, kFloatTileThreads, kFloatSharedBytes, stream, p, plan.depth, row_tiles, column_tiles);
  if (!error.empty() || plan.splits == 1) return error;
  const int64_t threads = p.m * (p.partial_stride / 4 - 1);
  return LaunchKernel((std::string(name) + ", sums of splits").c_str(), finish_splits, (threads + kFloatFinishThreads - 1) / kFloatFinishThreads,
                      kFloatFinishThreads, 0, stream, p, static_cast<int>(plan.splits));
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_CUDA_PANELS_FLOAT_CUH_
