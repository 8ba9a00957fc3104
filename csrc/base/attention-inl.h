// The body of every attention. Isa is a register of floats:
//
//     using V; static constexpr int kLanes, kRegs; V Zero(), Load(p), Broadcast(p), Fma(a, b, c) = a * b + c; void Store(p, v)
//
// where a tile of kTileRows rows by kRegs registers of sums, kRegs operands and a broadcast fit the registers of the machine. Everything has
// internal linkage: see base/elementwise-inl.h.
//
// Both products are the same tile: rows of A, whose numbers are broadcast, times a panel of B, kWidth = kRegs * kLanes columns wide.
//
//     scores [queries, keys]    = A: queries [queries, key_dim]       B: keys, transposed: panel p holds [key_dim, kWidth], keys p * kWidth ...
//     outputs [queries, values] = A: exp(scores) [queries, keys]      B: values: panel p holds [keys, kWidth], dimensions p * kWidth ...
//
// Panels are filled up with zeros. Keys and values are converted and laid out once per worker and head, which costs as much as some ten
// queries do.
#ifndef TFCOMPRESS_BASE_ATTENTION_INL_H_
#define TFCOMPRESS_BASE_ATTENTION_INL_H_

#include <cstdint>

#include "base/attention.h"
#include "base/elementwise-inl.h"
#include "base/tile-inl.h"

namespace tfcompress {
namespace {

constexpr int kTileRows = 6;
// Keys whose scores are held at a time: 96 queries of them fit in L2 beside keys and values, a tile of them in L1.
constexpr int64_t kKeyBlock = 256;
// Scores are reduced in this many strands: of registers of 4, 8 and 16 floats alike.
constexpr int64_t kStrands = 32;
// e^x below it is taken as zero: no denormal is ever computed, which would take a hundred times as long.
constexpr float kLeastExponent = -87.0f;

TFCOMPRESS_INLINE int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// c[kRows, kRegs registers] (+)= a[kRows, k] * b[k, kWidth]
template <typename Isa, int kRows, int kRegs, bool kAdd>
TFCOMPRESS_NOINLINE void AttentionTile(const float* a, int64_t a_stride, const float* b, int64_t k, float* c, int64_t c_stride) {
  constexpr int kWidth = Isa::kRegs * Isa::kLanes;
  typename Isa::V sums[kRows][kRegs];
  TFCOMPRESS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < kRegs; ++v) sums[r][v] = kAdd ? Isa::Load(c + r * c_stride + v * Isa::kLanes) : Isa::Zero();
  }
  for (int64_t i = 0; i < k; ++i, b += kWidth) {
    typename Isa::V columns[kRegs];
    TFCOMPRESS_UNROLL
    for (int v = 0; v < kRegs; ++v) columns[v] = Isa::Load(b + v * Isa::kLanes);
    TFCOMPRESS_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const typename Isa::V row = Isa::Broadcast(a + r * a_stride + i);
      TFCOMPRESS_UNROLL
      for (int v = 0; v < kRegs; ++v) sums[r][v] = Isa::Fma(row, columns[v], sums[r][v]);
    }
  }
  TFCOMPRESS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < kRegs; ++v) Isa::Store(c + r * c_stride + v * Isa::kLanes, sums[r][v]);
  }
}

using AttentionTileRef = void (*)(const float* a, int64_t a_stride, const float* b, int64_t k, float* c, int64_t c_stride);

template <typename Isa, bool kAdd, int kRegs>
TFCOMPRESS_INLINE AttentionTileRef TileOfHeight(int64_t rows) {
  constexpr AttentionTileRef kTiles[kTileRows] = {AttentionTile<Isa, 1, kRegs, kAdd>, AttentionTile<Isa, 2, kRegs, kAdd>,
                                                  AttentionTile<Isa, 3, kRegs, kAdd>, AttentionTile<Isa, 4, kRegs, kAdd>,
                                                  AttentionTile<Isa, 5, kRegs, kAdd>, AttentionTile<Isa, 6, kRegs, kAdd>};
  return kTiles[rows - 1];
}

// A tile of the panel's first `columns` columns, in whole registers.
template <typename Isa, bool kAdd>
TFCOMPRESS_INLINE AttentionTileRef TileFor(int64_t rows, int64_t columns) {
  static_assert(Isa::kRegs == 2 || Isa::kRegs == 4, "as many cases as below");
  const int64_t regs = (columns + Isa::kLanes - 1) / Isa::kLanes;
  if (regs == 1) return TileOfHeight<Isa, kAdd, 1>(rows);
  if (regs == 2) return TileOfHeight<Isa, kAdd, 2>(rows);
  if constexpr (Isa::kRegs == 4) {
    if (regs == 3) return TileOfHeight<Isa, kAdd, 3>(rows);
    return TileOfHeight<Isa, kAdd, 4>(rows);
  }
  return nullptr;
}

// c[rows, columns] (+)= a[rows, k] * b, whose panels lie `panel` floats apart.
template <typename Isa, bool kAdd>
TFCOMPRESS_INLINE void Multiply(const float* a, int64_t a_stride, const float* b, int64_t panel, int64_t k, float* c, int64_t c_stride,
                                int64_t rows, int64_t columns) {
  constexpr int64_t kWidth = Isa::kRegs * Isa::kLanes;
  for (int64_t column = 0; column < columns; column += kWidth, b += panel) {
    ForEachRowTile(rows, kTileRows, [&](int64_t row, int64_t height) {
      const AttentionTileRef tile = TileFor<Isa, kAdd>(height, Min(kWidth, columns - column));
      tile(a + row * a_stride, a_stride, b, k, c + row * c_stride + column, c_stride);
    });
  }
}

// What a worker holds, in floats.
template <typename Isa>
struct AttentionMemory {
  static constexpr int64_t kWidth = Isa::kRegs * Isa::kLanes;
  static_assert(kKeyBlock % kWidth == 0 && kKeyBlock % kStrands == 0, "blocks begin at panels and end at strands");

  // With no scratch, for its size alone.
  TFCOMPRESS_INLINE AttentionMemory(const AttentionArgs& args, void* scratch) {
    int64_t floats = 0;
    const auto take = [&](int64_t size) {
      float* const taken = scratch == nullptr ? nullptr : static_cast<float*>(scratch) + floats;
      floats += RoundUp(size, 16);
      return taken;
    };
    block = Min(kKeyBlock, RoundUp(args.keys, kStrands > kWidth ? kStrands : kWidth));
    values_width = RoundUp(args.value_dim, kWidth);
    prepared = reinterpret_cast<int64_t*>(take(16));
    keys = take(RoundUp(args.keys, kWidth) * args.key_dim);
    values = take(values_width * args.keys);
    queries = take(kAttentionQueries * args.key_dim);
    scores = take(kAttentionQueries * block);
    outputs = take(kAttentionQueries * values_width);
    most = take(kAttentionQueries);
    total = take(kAttentionQueries);
    row = take(args.key_dim > args.value_dim ? args.key_dim : args.value_dim);
    bytes = floats * static_cast<int64_t>(sizeof(float));
  }

  int64_t* prepared;  // which keys and values are held, or -1
  float *keys, *values, *queries, *scores, *outputs, *most, *total, *row;
  int64_t block, values_width, bytes;
};

template <typename Isa>
int64_t AttentionScratchHere(const AttentionArgs& args) {
  return AttentionMemory<Isa>(args, nullptr).bytes;
}

// n numbers of keys or values, from `begin` on, as floats: where they are, or converted into `to`.
TFCOMPRESS_INLINE const float* AsFloat(const AttentionArgs& args, const void* x, int64_t begin, int64_t n, float* to) {
  const char* from = static_cast<const char*>(x) + begin * ElementBytes(args.type);
  if (args.type == ElementType::kFloat32) return reinterpret_cast<const float*>(from);
  LoadAsFloat(from, args.type, to, n);
  return to;
}

// Lays out keys and values of a head as panels.
template <typename Isa>
TFCOMPRESS_NOINLINE void PrepareKeysAndValues(const AttentionArgs& args, int64_t batch, int64_t kv_head,
                                              const AttentionMemory<Isa>& memory) {
  constexpr int64_t kWidth = Isa::kRegs * Isa::kLanes;
  constexpr int kTogether = 4;         // keys beside each other: a store of all of them for each dimension
  constexpr int64_t kDimensions = 64;  // of a panel at a time: 16 KB that are written in pieces stay in L1
  const int64_t stride = args.kv_heads * args.key_dim, panel_keys = RoundUp(args.keys, kWidth);
  const auto row = [&](int64_t key) { return (batch * args.keys + key) * args.kv_heads + kv_head; };
  for (int64_t panel = 0; panel < panel_keys; panel += kWidth) {
    for (int64_t first = 0; first < args.key_dim; first += kDimensions) {
      const int64_t n = Min(kDimensions, args.key_dim - first);
      for (int64_t key = panel; key < panel + kWidth; key += kTogether) {
        float* __restrict__ to = memory.keys + panel * args.key_dim + first * kWidth + (key - panel);
        if (args.type == ElementType::kFloat32 && key + kTogether <= args.keys) {
          const float* from = static_cast<const float*>(args.key) + row(key) * args.key_dim + first;
          for (int64_t i = 0; i < n; ++i) {
            for (int j = 0; j < kTogether; ++j) to[i * kWidth + j] = from[j * stride + i];
          }
          continue;
        }
        for (int j = 0; j < kTogether; ++j) {
          const bool inside = key + j < args.keys;
          const float* from = inside ? AsFloat(args, args.key, row(key + j) * args.key_dim + first, n, memory.row) : nullptr;
          for (int64_t i = 0; i < n; ++i) to[i * kWidth + j] = inside ? from[i] : 0.0f;
        }
      }
    }
  }
  for (int64_t key = 0; key < args.keys; ++key) {
    const float* from = AsFloat(args, args.value, row(key) * args.value_dim, args.value_dim, memory.row);
    for (int64_t first = 0; first < memory.values_width; first += kWidth) {
      float* __restrict__ to = memory.values + first * args.keys + key * kWidth;
      const int64_t n = Min(kWidth, args.value_dim - first);
      for (int64_t i = 0; i < n; ++i) to[i] = from[first + i];
      for (int64_t i = n; i < kWidth; ++i) to[i] = 0.0f;
    }
  }
}

TFCOMPRESS_INLINE void Mask(const AttentionArgs& args, const bool* mask, float* scores, int64_t n) {
  const int64_t stride = args.mask_strides[3];
  if (stride == 1) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(mask);
    for (int64_t s = 0; s < n; ++s) scores[s] = bytes[s] != 0 ? scores[s] : kMaskedScore;
  } else {
    for (int64_t s = 0; s < n; ++s) scores[s] = mask[s * stride] ? scores[s] : kMaskedScore;
  }
}

// A row's largest score. A NaN among them is passed over here, and makes all outputs NaN later.
TFCOMPRESS_INLINE float Largest(const float* scores, int64_t width) {
  float strands[kStrands];
  for (int64_t j = 0; j < kStrands; ++j) strands[j] = scores[j];
  for (int64_t s = kStrands; s < width; s += kStrands) {
    for (int64_t j = 0; j < kStrands; ++j) strands[j] = strands[j] < scores[s + j] ? scores[s + j] : strands[j];
  }
  for (int64_t half = kStrands / 2; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) strands[j] = strands[j] < strands[j + half] ? strands[j + half] : strands[j];
  }
  return strands[0];
}

// scores[s] = e^(scores[s] - most); returns their sum.
TFCOMPRESS_INLINE float Exponentials(float* scores, int64_t width, float most) {
  float strands[kStrands] = {};
  for (int64_t s = 0; s < width; s += kStrands) {
    for (int64_t j = 0; j < kStrands; ++j) {
      const float x = scores[s + j] - most;
      const float power = Exp(x < kLeastExponent ? kLeastExponent : x);
      scores[s + j] = x < kLeastExponent ? 0.0f : power;
      strands[j] += scores[s + j];
    }
  }
  for (int64_t half = kStrands / 2; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) strands[j] += strands[j + half];
  }
  return strands[0];
}

template <typename Isa>
void AttentionHere(const AttentionArgs& args, int64_t batch, int64_t head, int64_t begin, int64_t end, void* scratch) {
  constexpr int64_t kWidth = Isa::kRegs * Isa::kLanes;
  const AttentionMemory<Isa> memory(args, scratch);
  const int64_t kv_head = head / (args.heads / args.kv_heads), rows = end - begin, bytes = ElementBytes(args.type);
  const int64_t group = batch * args.kv_heads + kv_head;
  if (*memory.prepared != group) {
    PrepareKeysAndValues<Isa>(args, batch, kv_head, memory);
    *memory.prepared = group;
  }
  const auto at = [&](int64_t row) { return (batch * args.queries + begin + row) * args.heads + head; };
  for (int64_t row = 0; row < rows; ++row) {
    float* to = memory.queries + row * args.key_dim;
    LoadAsFloat(static_cast<const char*>(args.query) + at(row) * args.key_dim * bytes, args.type, to, args.key_dim);
    for (int64_t i = 0; i < args.key_dim; ++i) to[i] *= args.scale;
    memory.most[row] = -3.40282347e38f;
    memory.total[row] = 0.0f;
  }
  for (int64_t first = 0; first < args.keys; first += kKeyBlock) {
    const int64_t keys = Min(kKeyBlock, args.keys - first), width = RoundUp(keys, kStrands);
    Multiply<Isa, false>(memory.queries, args.key_dim, memory.keys + first * args.key_dim, kWidth * args.key_dim, args.key_dim,
                         memory.scores, memory.block, rows, keys);
    for (int64_t row = 0; row < rows; ++row) {
      float* scores = memory.scores + row * memory.block;
      if (args.mask != nullptr) {
        const int64_t* strides = args.mask_strides;
        Mask(args, args.mask + batch * strides[0] + head * strides[1] + (begin + row) * strides[2] + first * strides[3], scores, keys);
      }
      for (int64_t s = keys; s < width; ++s) scores[s] = -__builtin_inff();
      const float largest = Largest(scores, width), before = memory.most[row];
      const float most = largest > before ? largest : before;
      const float sum = Exponentials(scores, width, most);
      if (first == 0) {
        memory.total[row] = sum;
      } else {
        const float less = before - most, factor = less < kLeastExponent ? 0.0f : Exp(less);
        float* outputs = memory.outputs + row * memory.values_width;
        for (int64_t i = 0; i < args.value_dim; ++i) outputs[i] *= factor;
        memory.total[row] = memory.total[row] * factor + sum;
      }
      memory.most[row] = most;
    }
    const float* values = memory.values + first * kWidth;
    if (first == 0) {
      Multiply<Isa, false>(memory.scores, memory.block, values, kWidth * args.keys, keys, memory.outputs, memory.values_width, rows,
                           args.value_dim);
    } else {
      Multiply<Isa, true>(memory.scores, memory.block, values, kWidth * args.keys, keys, memory.outputs, memory.values_width, rows,
                          args.value_dim);
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    float* outputs = memory.outputs + row * memory.values_width;
    const float inverse = 1.0f / memory.total[row];
    const bool blind = args.zero_blind && memory.most[row] == kMaskedScore;
    for (int64_t i = 0; i < args.value_dim; ++i) outputs[i] = blind ? 0.0f : outputs[i] * inverse;
    StoreFromFloat(outputs, static_cast<char*>(args.y) + at(row) * args.value_dim * bytes, args.type, args.value_dim);
  }
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_ATTENTION_INL_H_
