// The body of every kernel for weights of one or two bits: y = epilogue(x [m, k] times packed levels [k, n]) for one block of the output.
//
// An instruction-set file supplies three structs of primitives, one for each kind of activations, and includes this body. All have
//
//     V, kOutputs          register of words, or of sums, of kOutputs outputs
//     kRowTile             most rows of a tile
//     RegsFor(mr)          registers of outputs that a tile of mr rows has (a power of two); mr * RegsFor(mr) sums stay in registers
//     kOneRowSets          sets of sums for one row, 1 or 2: two hide the latency of the additions
//     Zero, Load(bytes), Add, Store(sums*, sums)
//
//   Signs (binary activations):  sums count the bits in which words differ
//     Words32(float*, nans) the signs of 32 floats as a word;  bits of `nans` are set where there is a NaN
//     AtLeast16(a, b)       16 comparisons a[i] >= b[i] as bits
//     Broadcast(uint32_t), And, Count(sums, words, words)
//     kPartialSteps         0, or how many Counts fit into narrow sums, which AddPartial(sums, narrow) then widens
//     kPanelRows            0, or from how many rows on CountPanel multiplies all rows by a panel, for K up to kPanelInFeatures
//   Bytes (int8 activations):
//     Field<bits, f>(words) the f-th level of each byte of the words, as bytes
//     Broadcast(int8_t*)    four activations;  Dot(sums, levels, activations)
//     kPartialWords         0, or after how many words narrow sums must be widened
//   Tables (float activations):  F: register of kOutputs floats;  Index: of kOutputs indices
//     Group<g>(words)       the bits 4 g ... 4 g + 3 of each word as an Index
//     AddEntries(sums, indices, float*)  adds for each index the entry of a table of 16
//
// Loop order: blocks of rows are prepared (binarised; quantised and put into the order in which fields of words meet them; made into tables), then
// every panel passes over them in tiles, all of K at once with the sums in registers. Weights are 8 to 32 times smaller than int8 or float32, so a
// panel stays in L1 while all tiles pass: 32 KiB of binary weights are 64 x 4096.
// Everything has internal linkage: see base/elementwise-inl.h.
#ifndef TFCOMPRESS_FORMATS_BINARY_MATMUL_INL_H_
#define TFCOMPRESS_FORMATS_BINARY_MATMUL_INL_H_

#include "base/elementwise-inl.h"
#include "base/epilogue-inl.h"
#include "base/quantize-inl.h"
#include "base/tile-inl.h"
#include "formats/binary/kernels.h"

namespace tfcompress::binary {
namespace {

TFCOMPRESS_INLINE const char* XRow(const MatMulArgs& args, int64_t row) {
  return static_cast<const char*>(args.x) + row * args.x_stride * ElementBytes(args.x_type);
}

// The bits of the last word that stand for weights, or all if it is full.
TFCOMPRESS_INLINE uint32_t LastWordMask(int64_t k) { return k % kWordBits == 0 ? 0xffffffffu : (1u << (k % kWordBits)) - 1; }

// ---- Binary activations --------------------------------------------------------------------------------------------------------------

// A row's signs into `words`, zeros beyond k.
template <class S>
PreparedRow PrepareSigns(const MatMulArgs& args, int64_t row, uint32_t* words) {
  const int64_t count = SignWords(args.k);
  PreparedRow prepared = {1.0f, static_cast<int32_t>(args.k), 0.0f};
  if (args.x_signs != nullptr) {
    __builtin_memcpy(words, args.x_signs + row * count, static_cast<uint64_t>(count) * 4);
  } else {
    uint32_t nans = 0;
    float magnitudes = 0.0f;
    ForEachChunk(XRow(args, row), args.x_type, args.k, [&](const float* x, int64_t first, int64_t n) {
      uint32_t* to = words + first / kWordBits;
      int64_t i = 0;
      for (; i + kWordBits <= n; i += kWordBits) *to++ = S::Words32(x + i, &nans);
      if (i < n) {
        float rest[kWordBits] = {};
        __builtin_memcpy(rest, x + i, static_cast<uint64_t>(n - i) * 4);
        *to = S::Words32(rest, &nans);
      }
      if (args.scale_x) magnitudes += SumOfMagnitudes(x, n);
    });
    if (args.scale_x) prepared.scale = args.k == 0 ? 0.0f : magnitudes / static_cast<float>(args.k);
    if (nans != 0) prepared.scale = BitCast<float>(0x7fc00000u);
  }
  if (count > 0) words[count - 1] &= LastWordMask(args.k);
  if (args.mean != nullptr) {
    int32_t ones = 0;
    for (int64_t i = 0; i < count; ++i) ones += __builtin_popcount(words[i]);
    prepared.sum = static_cast<float>(2 * ones - static_cast<int32_t>(args.k));
  }
  return prepared;
}

// sums[r][o] = in how many of the words' bits x[r] and the weights of output o differ, for MR rows and NR registers of outputs. `last` masks the last
// word.
template <class S, int MR, int NR>
TFCOMPRESS_NOINLINE void SignsTile(const uint8_t* w, int64_t w_stride, const uint32_t* x, int64_t x_stride, int64_t words, uint32_t last,
                                   int32_t* sums) {
  using V = typename S::V;
  V acc[MR][NR];
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NR; ++v) acc[r][v] = S::Zero();
  }
  const auto step = [&](V(&to)[MR][NR], auto masked) __attribute__((always_inline)) {
    V weights[NR];
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NR; ++v) {
      weights[v] = S::Load(w + v * S::kOutputs * 4);
      if constexpr (masked.value != 0) weights[v] = S::And(weights[v], S::Broadcast(last));
    }
    TFCOMPRESS_UNROLL
    for (int r = 0; r < MR; ++r) {
      const V broadcast = S::Broadcast(x[r * x_stride]);
      TFCOMPRESS_UNROLL
      for (int v = 0; v < NR; ++v) to[r][v] = S::Count(to[r][v], weights[v], broadcast);
    }
    w += w_stride;
    ++x;
  };
  // `whole` steps, and a masked one if there is one more.
  const auto steps = [&](V(&to)[MR][NR], int64_t whole, bool masked) __attribute__((always_inline)) {
    for (int64_t i = 0; i < whole; ++i) step(to, Index<0>{});
    if (masked) step(to, Index<1>{});
  };
  const bool masked = words > 0 && last != 0xffffffffu;
  const int64_t whole = masked ? words - 1 : words;
  if constexpr (S::kPartialSteps == 0) {
    steps(acc, whole, masked);
  } else {
    for (int64_t i = 0; i < words; i += S::kPartialSteps - 1) {
      V partial[MR][NR];
      TFCOMPRESS_UNROLL
      for (int r = 0; r < MR; ++r) {
        TFCOMPRESS_UNROLL
        for (int v = 0; v < NR; ++v) partial[r][v] = S::Zero();
      }
      const int64_t left = words - i;
      const bool ends = left <= S::kPartialSteps - 1;
      steps(partial, ends ? whole - i : S::kPartialSteps - 1, ends && masked);
      TFCOMPRESS_UNROLL
      for (int r = 0; r < MR; ++r) {
        TFCOMPRESS_UNROLL
        for (int v = 0; v < NR; ++v) acc[r][v] = S::AddPartial(acc[r][v], partial[r][v]);
      }
    }
  }
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NR; ++v) S::Store(sums + r * kPanelWidth + v * S::kOutputs, acc[r][v]);
  }
}

// What the dispatch below asks of each kind of activations: how rows are prepared, how a tile of them is multiplied, and whether all rows of a
// panel were multiplied in another way.
template <class S>
struct SignsPath {
  using Primitives = S;
  using X = uint32_t;
  using Sum = int32_t;
  static constexpr int32_t kFactor = -2;  // sum of products = k - 2 * differing bits
  static constexpr Levels kLevels = Levels::kBinary;
  static PreparedRow Prepare(const MatMulArgs& args, int64_t row, X* x) { return PrepareSigns<S>(args, row, x); }
  static bool Panel(const MatMulArgs& args, const uint8_t* w, int64_t width, const X* x, int64_t x_stride, int64_t rows, Sum* sums) {
    if constexpr (S::kPanelRows > 0) {
      if (rows < S::kPanelRows || args.k > S::kPanelInFeatures) return false;
      S::CountPanel(w, width, x, x_stride, rows, SignWords(args.k), LastWordMask(args.k), sums);
      return true;
    }
    return false;
  }
  template <int MR, int NR>
  static void Tile(const MatMulArgs& args, const uint8_t* w, int64_t width, const X* x, int64_t x_stride, Sum* sums) {
    SignsTile<S, MR, NR>(w, width * 4, x, x_stride, SignWords(args.k), LastWordMask(args.k), sums);
  }
};

// ---- int8 activations ----------------------------------------------------------------------------------------------------------------

// A row of activations as int8, those of a word in the order of its fields: field f of the four bytes of a word holds the levels of the activations f,
// F + f, 2 F + f and 3 F + f, where F = 8 / bits fields make a byte.
template <Levels levels>
PreparedRow PrepareBytes(const MatMulArgs& args, int64_t row, int8_t* q) {
  constexpr int64_t kFields = 8 / BitsOf(levels);
  constexpr int64_t kDepth = 4 * kFields;
  const RowScale scale = QuantizeRow<0>(XRow(args, row), args.x_type, args.k, 0.0f, q);
  const int64_t words = NumWords(levels, args.k);
  for (int64_t i = args.k; i < words * kDepth; ++i) q[i] = 0;  // whatever bits the padding holds, they count for nothing
  for (int64_t word = 0; word < words; ++word, q += kDepth) {
    int8_t in[kDepth];
    __builtin_memcpy(in, q, sizeof(in));
    for (int64_t f = 0; f < kFields; ++f) {
      for (int64_t j = 0; j < 4; ++j) q[f * 4 + j] = in[j * kFields + f];
    }
  }
  return {scale.scale, -scale.sum, static_cast<float>(scale.sum)};
}

// sums[r][o] = sum over k of x[r][k] * level(k, o), for MR rows and NR registers of outputs.
template <class S, Levels levels, int MR, int NR>
TFCOMPRESS_NOINLINE void BytesTile(const uint8_t* w, int64_t w_stride, const int8_t* x, int64_t x_stride, int64_t words, int32_t* sums) {
  using V = typename S::V;
  constexpr int kFields = 8 / BitsOf(levels);
  constexpr int kSets = MR == 1 ? S::kOneRowSets : 1;
  V acc[kSets][MR][NR];
  const auto clear = [](V(&to)[kSets][MR][NR]) __attribute__((always_inline)) {
    TFCOMPRESS_UNROLL
    for (int s = 0; s < kSets; ++s) {
      TFCOMPRESS_UNROLL
      for (int r = 0; r < MR; ++r) {
        TFCOMPRESS_UNROLL
        for (int v = 0; v < NR; ++v) to[s][r][v] = S::Zero();
      }
    }
  };
  clear(acc);
  const auto field = [&](V(&to)[MR][NR], const V(&weights)[NR], auto f) __attribute__((always_inline)) {
    V levels_of[NR];
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NR; ++v) levels_of[v] = S::template Field<BitsOf(levels), f.value>(weights[v]);
    TFCOMPRESS_UNROLL
    for (int r = 0; r < MR; ++r) {
      const V broadcast = S::Broadcast(x + r * x_stride + f.value * 4);
      TFCOMPRESS_UNROLL
      for (int v = 0; v < NR; ++v) to[r][v] = S::Dot(to[r][v], levels_of[v], broadcast);
    }
  };
  const auto word = [&](V(&to)[kSets][MR][NR]) __attribute__((always_inline)) {
    V weights[NR];
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NR; ++v) weights[v] = S::Load(w + v * S::kOutputs * 4);
    field(to[0], weights, Index<0>{});
    field(to[kSets - 1], weights, Index<1>{});
    field(to[0], weights, Index<2>{});
    field(to[kSets - 1], weights, Index<3>{});
    if constexpr (kFields == 8) {
      field(to[0], weights, Index<4>{});
      field(to[kSets - 1], weights, Index<5>{});
      field(to[0], weights, Index<6>{});
      field(to[kSets - 1], weights, Index<7>{});
    }
    w += w_stride;
    x += 4 * kFields;
  };
  if constexpr (S::kPartialWords == 0) {
    for (int64_t i = 0; i < words; ++i) word(acc);
  } else {
    for (int64_t i = 0; i < words; i += S::kPartialWords) {
      V partial[kSets][MR][NR];
      clear(partial);
      const int64_t count = Min(S::kPartialWords, words - i);
      for (int64_t j = 0; j < count; ++j) word(partial);
      TFCOMPRESS_UNROLL
      for (int s = 0; s < kSets; ++s) {
        TFCOMPRESS_UNROLL
        for (int r = 0; r < MR; ++r) {
          TFCOMPRESS_UNROLL
          for (int v = 0; v < NR; ++v) acc[s][r][v] = S::AddPartial(acc[s][r][v], partial[s][r][v]);
        }
      }
    }
  }
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NR; ++v) {
      V total = acc[0][r][v];
      if constexpr (kSets == 2) total = S::Add(total, acc[1][r][v]);
      S::Store(sums + r * kPanelWidth + v * S::kOutputs, total);
    }
  }
}

template <class S, Levels levels>
struct BytesPath {
  using Primitives = S;
  using X = int8_t;
  using Sum = int32_t;
  static constexpr int32_t kFactor = levels == Levels::kBinary ? 2 : 1;  // w_l = 2 * level - 1 or level - 1
  static constexpr Levels kLevels = levels;
  static PreparedRow Prepare(const MatMulArgs& args, int64_t row, X* x) { return PrepareBytes<levels>(args, row, x); }
  static bool Panel(const MatMulArgs&, const uint8_t*, int64_t, const X*, int64_t, int64_t, Sum*) { return false; }
  template <int MR, int NR>
  static void Tile(const MatMulArgs& args, const uint8_t* w, int64_t width, const X* x, int64_t x_stride, Sum* sums) {
    BytesTile<S, levels, MR, NR>(w, width * 4, x, x_stride, NumWords(levels, args.k), sums);
  }
};

// ---- Float activations ---------------------------------------------------------------------------------------------------------------

constexpr int64_t kEntries = 16;                       // of a table: what 4 bits can name
constexpr int64_t kTablesPerWord = kWordBits / 4;
using Entries = float __attribute__((vector_size(64)));  // a table as one value of the compiler's vector extension

// The weights of activation i of a table, for each of its 16 indices.
template <Levels levels>
TFCOMPRESS_INLINE Entries WeightsOfEntries(int i) {
  constexpr int kBits = BitsOf(levels);
  Entries weights;
  for (int e = 0; e < kEntries; ++e) {
    const int level = e >> (i * kBits) & ((1 << kBits) - 1);
    weights[e] = static_cast<float>(levels == Levels::kBinary ? 2 * level - 1 : level - 1);
  }
  return weights;
}

// A row as tables, one for the activations of each 4 bits of a word: entry e holds the sum of products with the weights that e stands for.
template <Levels levels>
PreparedRow PrepareTables(const MatMulArgs& args, int64_t row, float* tables) {
  constexpr int kActivationsPerTable = 4 / BitsOf(levels);
  constexpr int64_t kDepth = kWordBits / BitsOf(levels);
  Entries weights[kActivationsPerTable];
  TFCOMPRESS_UNROLL
  for (int i = 0; i < kActivationsPerTable; ++i) weights[i] = WeightsOfEntries<levels>(i);
  float* to = tables;
  const auto build = [&](const float* x, int64_t n) __attribute__((always_inline)) {
    for (int64_t i = 0; i < n; i += kActivationsPerTable, to += kEntries) {
      Entries sums = x[i] * weights[0];
      TFCOMPRESS_UNROLL
      for (int j = 1; j < kActivationsPerTable; ++j) sums += x[i + j] * weights[j];
      __builtin_memcpy(to, &sums, sizeof(sums));
    }
  };
  float sum = 0.0f;
  ForEachChunk(XRow(args, row), args.x_type, args.k, [&](const float* x, int64_t, int64_t n) {
    const int64_t whole = n / kDepth * kDepth;
    build(x, whole);
    if (whole < n) {  // whatever bits the padding holds, they count for nothing
      float rest[kDepth] = {};
      __builtin_memcpy(rest, x + whole, static_cast<uint64_t>(n - whole) * 4);
      build(rest, kDepth);
    }
    if (args.mean != nullptr) sum += SumOf(x, n);
  });
  return {1.0f, 0, sum};
}

// sums[r][o] = sum over the words' groups of 4 bits of table[r][group][the weights' 4 bits], for MR rows and NR registers of outputs.
// kSets chains of sums hide the latency of additions where one row is all there is. A row among others has one chain in any tile: how rows are cut
// into tiles depends on the number of threads, and the order in which floats are added must not.
template <class S, int MR, int NR, int kSets>
TFCOMPRESS_NOINLINE void TablesTile(const uint8_t* w, int64_t w_stride, const float* x, int64_t x_stride, int64_t words, float* sums) {
  using F = typename S::F;
  F acc[kSets][MR][NR];
  TFCOMPRESS_UNROLL
  for (int s = 0; s < kSets; ++s) {
    TFCOMPRESS_UNROLL
    for (int r = 0; r < MR; ++r) {
      TFCOMPRESS_UNROLL
      for (int v = 0; v < NR; ++v) acc[s][r][v] = S::Zero();
    }
  }
  for (int64_t i = 0; i < words; ++i) {
    typename S::V weights[NR];
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NR; ++v) weights[v] = S::Load(w + v * S::kOutputs * 4);
    const auto group = [&](auto g) __attribute__((always_inline)) {
      constexpr int kSet = decltype(g)::value % kSets;
      typename S::Index index[NR];
      TFCOMPRESS_UNROLL
      for (int v = 0; v < NR; ++v) index[v] = S::template Group<decltype(g)::value>(weights[v]);
      TFCOMPRESS_UNROLL
      for (int r = 0; r < MR; ++r) {
        TFCOMPRESS_UNROLL
        for (int v = 0; v < NR; ++v) {
          acc[kSet][r][v] = S::AddEntries(acc[kSet][r][v], index[v], x + r * x_stride + decltype(g)::value * kEntries);
        }
      }
    };
    group(Index<0>{});
    group(Index<1>{});
    group(Index<2>{});
    group(Index<3>{});
    group(Index<4>{});
    group(Index<5>{});
    group(Index<6>{});
    group(Index<7>{});
    w += w_stride;
    x += kTablesPerWord * kEntries;
  }
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NR; ++v) {
      F total = acc[0][r][v];
      if constexpr (kSets == 2) total = S::Add(total, acc[1][r][v]);
      S::Store(sums + r * kPanelWidth + v * S::kOutputs, total);
    }
  }
}

template <class S, Levels levels>
struct TablesPath {
  using Primitives = S;
  using X = float;
  using Sum = float;
  static constexpr Levels kLevels = levels;
  static PreparedRow Prepare(const MatMulArgs& args, int64_t row, X* x) { return PrepareTables<levels>(args, row, x); }
  static bool Panel(const MatMulArgs&, const uint8_t*, int64_t, const X*, int64_t, int64_t, Sum*) { return false; }
  template <int MR, int NR>
  static void Tile(const MatMulArgs& args, const uint8_t* w, int64_t width, const X* x, int64_t x_stride, Sum* sums) {
    const int64_t words = NumWords(levels, args.k);
    if constexpr (MR == 1) {
      if (args.m == 1) return TablesTile<S, 1, NR, S::kOneRowSets>(w, width * 4, x, x_stride, words, sums);
    }
    TablesTile<S, MR, NR, 1>(w, width * 4, x, x_stride, words, sums);
  }
};

// ---- Epilogue ------------------------------------------------------------------------------------------------------------------------

// What follows the sums of the outputs from `column` on.
TFCOMPRESS_INLINE Epilogue EpilogueAt(const MatMulArgs& args, int64_t column) {
  const auto at = [column](const float* vector) { return vector != nullptr ? vector + column : nullptr; };
  return {args.scale + column, at(args.mean), at(args.bias), args.activation, args.y_type};
}

TFCOMPRESS_INLINE void* YAt(const MatMulArgs& args, int64_t row, int64_t column) {
  return static_cast<char*>(args.y) + (row * args.y_stride + column) * ElementBytes(args.y_type);
}

// The signs of `n` integer sums less their thresholds, as words.
template <class S>
TFCOMPRESS_INLINE void StoreSigns(const int32_t* sums, const int32_t* threshold, int64_t n, uint32_t* y) {
  for (int64_t i = 0; i < n; i += kWordBits) {
    int32_t a[kWordBits], b[kWordBits];
    const int64_t count = Min(kWordBits, n - i);
    for (int64_t j = 0; j < kWordBits; ++j) {
      a[j] = j < count ? sums[i + j] : 0;
      b[j] = j < count ? threshold[i + j] : 1;
    }
    *y++ = S::AtLeast16(a, b) | S::AtLeast16(a + 16, b + 16) << 16;
  }
}

template <class Path>
TFCOMPRESS_INLINE void Finish(const MatMulArgs& args, const int32_t* __restrict__ sums, const PreparedRow& prepared, int64_t row,
                              int64_t column, int64_t n) {
  alignas(64) int32_t totals[kPanelWidth];
  for (int64_t i = 0; i < n; ++i) totals[i] = Path::kFactor * sums[i] + prepared.offset;
  if constexpr (Path::kFactor == SignsPath<typename Path::Primitives>::kFactor) {
    if (args.y_signs != nullptr) {
      StoreSigns<typename Path::Primitives>(totals, args.threshold + column, n, args.y_signs + row * SignWords(args.n) + column / kWordBits);
      return;
    }
  }
  if (args.y_type == ElementType::kInt32) {
    __builtin_memcpy(YAt(args, row, column), totals, static_cast<uint64_t>(n) * 4);
    return;
  }
  float v[kPanelWidth];
  for (int64_t i = 0; i < n; ++i) v[i] = static_cast<float>(totals[i]);
  FinishRow(EpilogueAt(args, column), v, prepared.scale, prepared.sum, YAt(args, row, column), n);
}

template <class Path>
TFCOMPRESS_INLINE void Finish(const MatMulArgs& args, const float* sums, const PreparedRow& prepared, int64_t row, int64_t column, int64_t n) {
  FinishRow(EpilogueAt(args, column), sums, prepared.scale, prepared.sum, YAt(args, row, column), n);
}

// ---- Blocks --------------------------------------------------------------------------------------------------------------------------

// All columns of a panel for MR rows: tiles of NR registers while they fit, then of half as many.
template <class Path, int MR, int NR>
void Columns(const MatMulArgs& args, const uint8_t* w, int64_t width, int64_t column, const typename Path::X* x, int64_t x_stride,
             typename Path::Sum* sums) {
  constexpr int64_t kColumns = NR * Path::Primitives::kOutputs;
  for (; column + kColumns <= width; column += kColumns) {
    Path::template Tile<MR, NR>(args, w + column * 4, width, x, x_stride, sums + column);
  }
  if constexpr (kColumns > kPanelQuantum) {
    if (column < width) Columns<Path, MR, NR / 2>(args, w, width, column, x, x_stride, sums);
  }
}

// Dispatches the number of rows of a tile, 1 <= rows <= MR, to the template.
template <class Path, int MR = Path::Primitives::kRowTile>
TFCOMPRESS_INLINE void RowTile(int64_t rows, const MatMulArgs& args, const uint8_t* w, int64_t width, const typename Path::X* x,
                               int64_t x_stride, typename Path::Sum* sums) {
  if constexpr (MR > 1) {
    if (rows < MR) return RowTile<Path, MR - 1>(rows, args, w, width, x, x_stride, sums);
  }
  Columns<Path, MR, Path::Primitives::RegsFor(MR)>(args, w, width, 0, x, x_stride, sums);
}

template <class Path>
void MultiplyBlock(const MatMulArgs& args, const Block& block, void* scratch) {
  using X = typename Path::X;
  using Sum = typename Path::Sum;
  constexpr int64_t kRows = kMaxRows;
  const int64_t most = MostRows(args.activations);
  const int64_t words = NumWords(Path::kLevels, args.k);
  const int64_t x_stride = RowBytes(args) / static_cast<int64_t>(sizeof(X));
  ScratchHeader* held = static_cast<ScratchHeader*>(scratch);
  X* x = reinterpret_cast<X*>(static_cast<char*>(scratch) + kHeaderBytes);
  alignas(64) Sum sums[kRows * kPanelWidth];
  for (int64_t first = block.row_begin; first < block.row_end; first += most) {
    const int64_t rows = Min(most, block.row_end - first);
    if (held->row_begin != first || held->row_end != first + rows) {
      for (int64_t r = 0; r < rows; ++r) held->rows[r] = Path::Prepare(args, first + r, x + r * x_stride);
      held->row_begin = first;
      held->row_end = first + rows;
    }
    if (args.row_scale != nullptr && block.panel_begin == 0) {  // by one worker
      for (int64_t r = 0; r < rows; ++r) args.row_scale[first + r] = held->rows[r].scale;
    }
    for (int64_t panel = block.panel_begin; panel < block.panel_end; ++panel) {
      const int64_t column = panel * kPanelWidth;
      const int64_t width = Min(kPanelWidth, RoundUp(args.n, kPanelQuantum) - column);
      const int64_t valid = Min(width, args.n - column);
      const uint8_t* w = args.kernel + column * words * 4;
      if (!Path::Panel(args, w, width, x, x_stride, rows, sums)) {
        ForEachRowTile(rows, Path::Primitives::kRowTile, [&](int64_t r0, int64_t height) {
          RowTile<Path>(height, args, w, width, x + r0 * x_stride, x_stride, sums + r0 * kPanelWidth);
        });
      }
      // A whole panel's width as a constant: its loops are unrolled, which halves the epilogue.
      for (int64_t r = 0; r < rows; ++r) {
        const Sum* row_sums = sums + r * kPanelWidth;
        if (valid == kPanelWidth) {
          Finish<Path>(args, row_sums, held->rows[r], first + r, column, kPanelWidth);
        } else {
          Finish<Path>(args, row_sums, held->rows[r], first + r, column, valid);
        }
      }
    }
  }
}

// The table of a tier, whose levels of two bits may have primitives of their own.
template <class Signs, class Bytes, class Tables, class TernaryBytes = Bytes>
constexpr Kernels MakeKernels(const char* tables_step, const char* bytes_step, const char* signs_step, double tables_macs, double bytes_macs,
                              double signs_macs) {
  return {{tables_step, bytes_step, signs_step},
          {tables_macs, bytes_macs, signs_macs},
          {{MultiplyBlock<TablesPath<Tables, Levels::kBinary>>, MultiplyBlock<BytesPath<Bytes, Levels::kBinary>>, MultiplyBlock<SignsPath<Signs>>},
           {MultiplyBlock<TablesPath<Tables, Levels::kTernary>>, MultiplyBlock<BytesPath<TernaryBytes, Levels::kTernary>>, nullptr}}};
}

}  // namespace
}  // namespace tfcompress::binary

#endif  // TFCOMPRESS_FORMATS_BINARY_MATMUL_INL_H_
