// What GPU kernels share for formats whose weights lie in panels of 64 outputs (the last one 16, 32, 48 or 64 wide), word after word of 32 bits: the
// words of the same k of a panel's outputs side by side. int8 has 4 weights in a word, binary 32, ternary 16.
//
// Here: one multiplication as every kernel gets it, where a thread finds its words, and the frame of a GEMV. In a GEMV a block owns 16, 32 or 64
// outputs and all of K: no sums leave it. Its threads stream the weights, which are read once, 16 bytes at a time: a word of four outputs; several
// are under way, and the next batch is asked for before this one is multiplied.
#ifndef TFCOMPRESS_BASE_CUDA_PANELS_CUH_
#define TFCOMPRESS_BASE_CUDA_PANELS_CUH_

#include "base/cuda_epilogue.cuh"
#include "base/cuda_intrinsics.cuh"
#include "base/cuda_quantize.cuh"
#include "base/quantize.h"

namespace tfcompress {

// One multiplication on the device, as every kernel of it gets it.
struct PanelProblem {
  CudaRows x;
  const uint8_t* kernel = nullptr;
  int64_t m = 0, k = 0, n = 0;
  int64_t words = 0;                 // of an output
  const uint8_t* x_q = nullptr;      // [m, x_q_stride], where rows are prepared first: quantised, or their signs
  int64_t x_q_stride = 0;            // bytes, a multiple of 64
  RowScale* row_scales = nullptr;    // [m], the same
  float* row_scale_copy = nullptr;   // [m] or null: for the caller
  void* partial_sums = nullptr;      // [splits, m, partial_stride] or null: K isn't split
  int64_t partial_stride = 0;
  CudaEpilogue epilogue;
};

namespace {

// Of every format's panels; their own headers say the same.
constexpr int64_t kCudaPanelWidth = 64;
constexpr int64_t kCudaPanelQuantum = 16;

TFCOMPRESS_INLINE constexpr int64_t RoundUpTo(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Four outputs' words, one after the other: where they begin, and how far apart. `exists` is false beyond the last panel's width.
struct WeightColumns {
  const uint8_t* first;
  int64_t step_bytes;
  bool exists;
};

TFCOMPRESS_DEVICE WeightColumns WeightColumnsAt(const PanelProblem& p, int64_t column) {
  const int64_t panel = column / kCudaPanelWidth * kCudaPanelWidth;  // its first output
  const int64_t left = RoundUpTo(p.n - panel, kCudaPanelQuantum);
  const int64_t width = left < kCudaPanelWidth ? left : kCudaPanelWidth;
  return {p.kernel + (panel * p.words + (column - panel)) * 4, width * 4, column - panel < width};
}

// ---- GEMV ----------------------------------------------------------------------------------------------------------------------------

constexpr int kPanelGemvThreads = 256;
constexpr int kPanelGemvWarps = kPanelGemvThreads / 32;
// Words4 of a batch: 256 threads x 4 x 16 bytes are 16 KiB of weights under way in a block; eight rows' sums leave registers for two.
TFCOMPRESS_INLINE constexpr int GemvUnroll(int rows) { return rows == 8 ? 2 : 4; }

// Shared memory: x | sums of each warp [kWarps][kRows][columns] | numbers [kNumbers][kWarps][kRows] | RowScale [kRows]
template <int kRows>
struct GemvShared {
  // Of a warp and row. Whoever needs two has a place for each: the second one is stored while other warps still read the first.
  static constexpr int kNumbers = 2;
  TFCOMPRESS_DEVICE GemvShared(int x_bytes, int columns) {
    x = SharedMemory();
    sums = x + RoundUpTo(x_bytes, 16);
    numbers = reinterpret_cast<uint32_t*>(sums + kPanelGemvWarps * kRows * columns * 4);
    row_scales = reinterpret_cast<RowScale*>(numbers + kNumbers * kPanelGemvWarps * kRows);
  }
  TFCOMPRESS_DEVICE uint32_t* Number(int number, int warp, int row) const { return numbers + (number * kPanelGemvWarps + warp) * kRows + row; }
  char* x;
  char* sums;
  uint32_t* numbers;
  RowScale* row_scales;
};

// Which outputs and words a thread takes.
struct GemvThread {
  TFCOMPRESS_DEVICE GemvThread(const PanelProblem& p, int columns)
      : across(columns / 4),
        across_bits(PopCount(static_cast<uint32_t>(across - 1))),
        word(NonNegativeThreadIndex() >> across_bits),
        words(kPanelGemvThreads >> across_bits),
        column(BlockIndex() * columns + 4 * (NonNegativeThreadIndex() & (across - 1))),
        weights(WeightColumnsAt(p, column)),
        step_bytes(static_cast<int>(weights.step_bytes)) {}
  int across, across_bits;  // threads that share a word's place in K: 4, 8 or 16 (a division would take as long as a few words)
  int word, words;
  int64_t column;
  WeightColumns weights;
  int step_bytes;  // at most 256; the words of four outputs take at most 16 MiB: offsets are ints
};

// Words are counted in parts, kParts of them in a word: threads that share a word load it together. A thread whose outputs do not exist has none.
template <int kParts>
TFCOMPRESS_DEVICE const uint8_t* WordOfPart(const GemvThread& t, int part) {
  return t.weights.first + static_cast<int>(static_cast<uint32_t>(part) / kParts) * t.step_bytes;
}
// Between this thread's words: t.words is a multiple of kParts.
template <int kParts>
TFCOMPRESS_DEVICE int WordStride(const GemvThread& t) {
  return static_cast<int>(static_cast<uint32_t>(t.words) / kParts) * t.step_bytes;
}

template <int kUnroll>
TFCOMPRESS_DEVICE void LoadBatch(const GemvThread& t, const uint8_t* from, int stride, int part, int end, Words4 (&raw)[kUnroll]) {
  const int mine = t.weights.exists ? end : 0;
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    raw[u] = {{0, 0, 0, 0}};
    if (part + u * t.words < mine) raw[u] = LoadStreaming(from + u * stride);
  }
}

template <int kParts, int kUnroll>
TFCOMPRESS_DEVICE void LoadWeights(const GemvThread& t, int part, int end, Words4 (&raw)[kUnroll]) {
  LoadBatch(t, WordOfPart<kParts>(t, part), WordStride<kParts>(t), part, end, raw);
}

// Calls multiply(part, words of four outputs) for this thread's parts out of [first, end), whose first batch is `raw` already; `part` counts from
// `first`. The address goes from batch to batch: worked out anew it took a third of the instructions.
template <int kParts, int kUnroll, typename Multiply>
TFCOMPRESS_DEVICE void ForEachWord(const GemvThread& t, int first, int end, Words4 (&raw)[kUnroll], const Multiply& multiply) {
  const int stride = WordStride<kParts>(t);
  const uint8_t* from = WordOfPart<kParts>(t, first + t.word);
  for (int part = first + t.word; part < end;) {
    const int next_part = part + kUnroll * t.words;
    Words4 next[kUnroll];
    from += kUnroll * stride;
    if (next_part < end) LoadBatch(t, from, stride, next_part, end, next);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int w = part + u * t.words;
      if (w < end) multiply(w - first, raw[u]);
    }
    part = next_part;
    if (part >= end) return;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) raw[u] = next[u];
  }
}

// Which row and outputs a thread finishes. Behind the loop, in which eight rows' sums leave no registers for them.
struct GemvOutputs {
  TFCOMPRESS_DEVICE explicit GemvOutputs(int columns) : thread(ThreadIndexAgain()), across(columns / 4) {
    bits = PopCount(static_cast<uint32_t>(across - 1));
    row = thread >> bits;
    column = 4 * (thread & (across - 1));
  }
  int thread, across, bits;
  int row, column;  // the column, of the block's
};

// Adds up what the threads of a block have summed for the same outputs: in the warp by shuffles, then through shared memory.
template <int kRows, typename T>
TFCOMPRESS_DEVICE void DepositSums(const GemvOutputs& outputs, int columns, T (&sums)[kRows][4], char* shared) {
  for (int lanes = outputs.across; lanes < 32; lanes *= 2) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[r][c] += ShuffleXor(sums[r][c], lanes);
    }
  }
  const int lane = outputs.thread % 32, warp = outputs.thread / 32;
  if (lane >= outputs.across) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const auto word = [&](int c) { return BitCast<uint32_t>(sums[r][c]); };
    StoreShared<4>(shared + ((warp * kRows + r) * columns + 4 * lane) * 4, {{word(0), word(1), word(2), word(3)}});
  }
}

template <int kRows, typename T>
TFCOMPRESS_DEVICE void CollectSums(int row, int column, int columns, const char* shared, T (&sums)[4]) {
#pragma unroll
  for (int c = 0; c < 4; ++c) sums[c] = T(0);
#pragma unroll
  for (int w = 0; w < kPanelGemvWarps; ++w) {
    const Words4 part = LoadWords<4>(shared + ((w * kRows + row) * columns + column) * 4);
#pragma unroll
    for (int c = 0; c < 4; ++c) sums[c] += BitCast<T>(part.v[c]);
  }
}

// Quantises all rows into shared memory, 4 * kWords activations at a time, `count` times: load(row, i, v) brings them, store(i, r, words) puts the bytes
// of rows r ... r + kPacked - 1 away. Ends with a barrier for those bytes; shared.row_scales are there for all behind the next one.
template <int kRows, int kPacked, int kWords, typename Load, typename Store>
TFCOMPRESS_DEVICE void QuantizeIntoShared(const PanelProblem& p, const float* x_scale, int count, const GemvShared<kRows>& shared, const Load& load,
                                          const Store& store) {
  const int thread = NonNegativeThreadIndex(), warp = thread / 32, m = static_cast<int>(p.m);
  // The first batch of weights is under way, in registers: for several rows' activations of several turns there are none.
  [[maybe_unused]] constexpr int kTurns = kRows * kWords <= 4 ? 4 : 1;
  CudaRow<int> rows[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) rows[r] = RowOf<int>(p.x, r);
  uint32_t most[kRows] = {};
#pragma unroll kTurns
  for (int i = thread; i < count; i += kPanelGemvThreads) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= m) break;
      float v[kWords][4];
      load(rows[r], i, v);
#pragma unroll
      for (int w = 0; w < kWords; ++w) most[r] = MostMagnitude(v[w], most[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    most[r] = WarpMost(most[r]);
    if (thread % 32 == 0) *shared.Number(0, warp, r) = most[r];
  }
  SyncThreads();
  Scaling scaling[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    for (int w = 0; w < kPanelGemvWarps; ++w) most[r] = *shared.Number(0, w, r) > most[r] ? *shared.Number(0, w, r) : most[r];
    scaling[r] = ScalingOf(most[r], x_scale);
    if (thread == 0) shared.row_scales[r].scale = scaling[r].scale;
  }
  uint32_t sum[kRows] = {};
#pragma unroll kTurns
  for (int i = thread; i < count; i += kPanelGemvThreads) {
#pragma unroll
    for (int r0 = 0; r0 < kRows; r0 += kPacked) {
      Words<kPacked * kWords> packed;
#pragma unroll
      for (int r = r0; r < r0 + kPacked; ++r) {
        float v[kWords][4] = {};
        if (r < m) load(rows[r], i, v);
#pragma unroll
        for (int w = 0; w < kWords; ++w) packed.v[(r - r0) * kWords + w] = QuantizeFour(v[w], scaling[r], &sum[r]);
      }
      store(i, r0, packed);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    sum[r] = WarpSum(sum[r]);
    if (thread % 32 == 0) *shared.Number(1, warp, r) = sum[r];
  }
  SyncThreads();
  if (thread < kRows) {
    uint32_t total = 0;
    for (int w = 0; w < kPanelGemvWarps; ++w) total += *shared.Number(1, w, thread);
    const float scale = shared.row_scales[thread].scale;
    shared.row_scales[thread] = MakeRowScale({scale, 0.0f, false}, total);
    if (BlockIndex() == 0 && p.row_scale_copy != nullptr && thread < p.m) p.row_scale_copy[thread] = scale;
  }
}

// y = x times weights decoded to floats, summed in float32. x lies in shared memory as it is, a chunk of K at a time. A thread takes a part of a word:
// with all of 32 weights a chunk would be too few words for the block's threads. Weights has
//     kDepth, kParts, kPartDepth   weights of a word, parts of it, weights of a part (a multiple of 4)
//     From(word, k)                the word with the weight of k, a multiple of 4, in its lowest bits
//     Decode(word, i)              its i-th weight
template <class Weights, int kRows>
TFCOMPRESS_DEVICE void FloatGemv(const PanelProblem& p, int columns, int chunk) {
  constexpr int kDepth = Weights::kPartDepth, kQuads = kDepth / 4, kParts = Weights::kParts;
  // Eight rows' sums leave registers for the decoded weights of one quad: with two under way, machine code for 10.0 spills.
  [[maybe_unused]] constexpr int kUnrolledQuads = kRows == 8 ? 1 : kQuads;
  const GemvShared<kRows> shared(chunk * kRows * kDepth * 4, columns);
  const GemvThread t(p, columns);
  Words4* const x = reinterpret_cast<Words4*>(shared.x);  // [kRows][kQuads][chunk]: consecutive parts, no bank conflicts
  const int thread = NonNegativeThreadIndex(), warp = thread / 32;
  float sums[kRows][4] = {};
  float row_sums[kRows] = {};
  const int parts = static_cast<int>(p.words) * kParts;
  for (int first = 0; first < parts; first += chunk) {
    const int end = first + chunk < parts ? first + chunk : parts;
    Words4 raw[GemvUnroll(kRows)];
    LoadWeights<kParts>(t, first + t.word, end, raw);
    if (first > 0) SyncThreads();  // the chunk before has been multiplied
    for (int i = thread; i < (end - first) * kQuads; i += kPanelGemvThreads) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float v[4] = {};
        if (r < p.m) LoadFour(p.x, r, 4 * (int64_t{first} * kQuads + i), v);
        row_sums[r] += (v[0] + v[1]) + (v[2] + v[3]);
        const auto word = [&](int j) { return BitCast<uint32_t>(v[j]); };
        StoreShared<4>(x + (r * kQuads + i % kQuads) * chunk + i / kQuads, {{word(0), word(1), word(2), word(3)}});
      }
    }
    SyncThreads();
    ForEachWord<kParts>(t, first, end, raw, [&](int part, const Words4& words) {
#pragma unroll kUnrolledQuads
      for (int q = 0; q < kQuads; ++q) {
        float weights[4][4];
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const uint32_t word = Weights::From(words.v[c], (first + part) * kDepth);
#pragma unroll
          for (int j = 0; j < 4; ++j) weights[c][j] = Weights::Decode(word, 4 * q + j);
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const Words4 v = LoadWords<4>(x + (r * kQuads + q) * chunk + part);
#pragma unroll
          for (int c = 0; c < 4; ++c) {
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[r][c] = FusedMultiplyAdd(BitCast<float>(v.v[j]), weights[c][j], sums[r][c]);
          }
        }
      }
    });
  }
  if (p.epilogue.mean != nullptr) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int lanes = 16; lanes > 0; lanes /= 2) row_sums[r] += ShuffleXor(row_sums[r], lanes);
      if (thread % 32 == 0) *shared.Number(0, warp, r) = BitCast<uint32_t>(row_sums[r]);
    }
  }
  const GemvOutputs outputs(columns);
  DepositSums<kRows>(outputs, columns, sums, shared.sums);
  SyncThreads();
  const int row = outputs.row, column = outputs.column;
  if (row >= p.m || BlockIndex() * columns + column >= p.n) return;
  float total[4], row_sum = 0.0f;
  CollectSums<kRows>(row, column, columns, shared.sums, total);
  for (int w = 0; p.epilogue.mean != nullptr && w < kPanelGemvWarps; ++w) row_sum += BitCast<float>(*shared.Number(0, w, row));
  FinishFour(p.epilogue, row, BlockIndex() * columns + column, total, 1.0f, row_sum);
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_CUDA_PANELS_CUH_
