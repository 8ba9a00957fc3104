// The body of every int8 kernel: y = epilogue(x [m, k] times packed weights [k, n]) for one block of the output.
//
// An instruction-set file supplies two structs of primitives and includes this body:
//
//   Integer:  V             register of kOutputs int32 sums
//             kOutputs      outputs of a register, whose weights of a group are kOutputs * 4 bytes
//             XElement      how a quantised activation lies in scratch memory: int8_t or int16_t
//             kHalves       multiply-adds that a group takes: 1 (all four k at once) or 2 (two k each)
//             kRowTile      most rows of a tile
//             kWholeK       whether a tile runs over the whole of K at once: see below
//             kOneRowSets   sets of sums for one row, 1 or 2: two hide the latency of an instruction that multiplies and adds
//             RegsFor(mr)   registers of outputs a tile of mr rows has (a power of two); mr * RegsFor(mr) sums stay in registers
//             Zero, Weights<half>(bytes), Broadcast<half>(4 activations), Dot<rows of the tile>(sums, weights, x), Add,
//             LoadSums(int32*), StoreSums(int32*, sums), ArrangeGroups(activations, groups): puts the activations of each group in Broadcast's order
//   Float:    V             register of kLanes floats
//             kRowTile, kRegs  tile of the dequantised path;  kDirectRows  rows up to which weights are converted in registers
//             Zero, Load, Store, Broadcast(float*), Fma(a, b, c) = a * b + c
//             Raw, LoadRaw(bytes), Decode<j>(raw): the weights k = 4 * group + j of kLanes outputs as floats
//
// Loop order, integer: rows are quantised beforehand, for all workers. Every panel of a block, at most 64 x K bytes, comes from memory once and
// stays in L2 while all rows pass over it, in one of two ways:
//   kWholeK   A tile as wide as the panel reads it in order, all of K, which the prefetcher of L1 keeps up with. The sums leave the
//             registers once and go through the epilogue, and the tile's last fetches are the next panel's.
//   else      A tile narrower than the panel would read every second or fourth line of it, which share cache sets: kPassRows at a time pass
//             over kIntegerDepth of K, which stays in L1, and the sums of a pass (48 x 64 int32: 12 KiB, in L1) go through the epilogue at the end.
// Everything has internal linkage: see base/elementwise-inl.h.
#ifndef TFCOMPRESS_FORMATS_INT8_MATMUL_INL_H_
#define TFCOMPRESS_FORMATS_INT8_MATMUL_INL_H_

#include "base/elementwise-inl.h"
#include "base/epilogue-inl.h"
#include "base/quantize-inl.h"
#include "base/tile-inl.h"
#include "formats/int8/kernels.h"

namespace tfcompress::int8 {
namespace {

TFCOMPRESS_INLINE const char* XRow(const MatMulArgs& args, int64_t row) {
  return static_cast<const char*>(args.x) + row * args.x_stride * ElementBytes(args.x_type);
}

// ---- Quantisation of activations -------------------------------------------------------------------------------------------

// x0 x1 x2 x3 -> x0 x2 x1 x3 in each group of 16-bit activations: the even and the odd bytes of a group of weights, widened by a mask
// and by a shift, meet the first and the second half.
TFCOMPRESS_INLINE void EvenThenOdd(int16_t* q, int64_t groups) {
  for (int64_t g = 0; g < groups; ++g) {
    uint64_t v;
    __builtin_memcpy(&v, q + g * kGroup, sizeof(v));
    v = (v & 0xffff00000000ffffu) | (v & 0xffff0000u) << 16 | (v >> 16 & 0xffff0000u);
    __builtin_memcpy(q + g * kGroup, &v, sizeof(v));
  }
}

// Rows are quantised at the pace at which they come from L3 or another core, and hardware prefetches no page (1,024 floats) that was not read yet.
TFCOMPRESS_INLINE void PrefetchRow(const MatMulArgs& args, int64_t row) {
  const char* x = XRow(args, row);
  for (int64_t b = 0; b < args.k * ElementBytes(args.x_type); b += 64) __builtin_prefetch(x + b);
}

// Rows [row_begin, row_end) of x, the first of which is row `first` of `quantized`.
template <class S>
void QuantizeRows(const MatMulArgs& args, int64_t row_begin, int64_t row_end, const QuantizedRows& quantized) {
  const float x_scale = args.activations == Activations::kStatic ? args.x_scale : 0.0f;
  for (int64_t row = row_begin; row < row_end; ++row) {
    auto* q = reinterpret_cast<typename S::XElement*>(quantized.Row(row));
    if (row + 1 < row_end) PrefetchRow(args, row + 1);
    const RowScale row_scale = QuantizeRow<0>(XRow(args, row), args.x_type, args.k, x_scale, q);
    for (int64_t i = args.k; i % kGroup != 0; ++i) q[i] = 0;  // whatever bytes the kernel's padding holds, they count for nothing
    S::ArrangeGroups(q, RoundUp(args.k, kGroup) / kGroup);
    quantized.row_scales[row - quantized.first] = row_scale;
    if (args.row_scale != nullptr) args.row_scale[row] = row_scale.scale;
  }
}

// ---- Epilogue ----------------------------------------------------------------------------------------------------------------

// What follows the sums of the outputs from `column` on.
TFCOMPRESS_INLINE Epilogue EpilogueAt(const MatMulArgs& args, int64_t column) {
  const auto at = [column](const float* vector) { return vector != nullptr ? vector + column : nullptr; };
  return {args.scale + column, at(args.mean), at(args.bias), args.activation, args.y_type};
}

TFCOMPRESS_INLINE void* YAt(const MatMulArgs& args, int64_t row, int64_t column) {
  return static_cast<char*>(args.y) + (row * args.y_stride + column) * ElementBytes(args.y_type);
}

TFCOMPRESS_INLINE void FinishIntegerRow(const MatMulArgs& args, const int32_t* __restrict__ sums, const RowScale& row_scale,
                                        int64_t row, int64_t column, int64_t n, int64_t zero_point) {
  const int32_t zero_point_share = static_cast<int32_t>(zero_point) * row_scale.sum;
  if (args.y_type == ElementType::kInt32) {
    int32_t* __restrict__ y = static_cast<int32_t*>(YAt(args, row, column));
    for (int64_t i = 0; i < n; ++i) y[i] = sums[i] - zero_point_share;
    return;
  }
  float v[kPanelWidth];
  for (int64_t i = 0; i < n; ++i) v[i] = static_cast<float>(sums[i] - zero_point_share);
  FinishRow(EpilogueAt(args, column), v, row_scale.scale, static_cast<float>(row_scale.sum), YAt(args, row, column), n);
}

// Whole panels of what is common, float32 without an activation or with relu: decided once for `rows` rows, so that scales and biases stay in
// registers.
template <bool kMean, bool kRelu>
void FinishFloatRows(const MatMulArgs& args, const int32_t* __restrict__ sums, const RowScale* row_scales, int64_t row, int64_t rows,
                     int64_t column, int64_t zero_point) {
  const Epilogue epilogue = EpilogueAt(args, column);
  float* y = static_cast<float*>(YAt(args, row, column));
  for (int64_t r = 0; r < rows; ++r, sums += kPanelWidth, y += args.y_stride) {
    const int32_t zero_point_share = static_cast<int32_t>(zero_point) * row_scales[r].sum;
    float v[kPanelWidth];
    for (int64_t i = 0; i < kPanelWidth; ++i) v[i] = static_cast<float>(sums[i] - zero_point_share);
    ScaleAndAdd<true, kMean, kRelu>(epilogue, v, row_scales[r].scale, static_cast<float>(row_scales[r].sum), y, kPanelWidth);
  }
}

// Rows [row, row + rows) of the n outputs of a panel.
TFCOMPRESS_INLINE void FinishIntegerRows(const MatMulArgs& args, const int32_t* sums, const RowScale* row_scales, int64_t row, int64_t rows,
                                         int64_t column, int64_t n, int64_t zero_point) {
  const bool relu = args.activation == Activation::kRelu;
  if (n == kPanelWidth && args.y_type == ElementType::kFloat32 && (relu || args.activation == Activation::kLinear)) {
    const auto finish = args.mean != nullptr ? (relu ? FinishFloatRows<true, true> : FinishFloatRows<true, false>)
                                             : (relu ? FinishFloatRows<false, true> : FinishFloatRows<false, false>);
    return finish(args, sums, row_scales, row, rows, column, zero_point);
  }
  for (int64_t r = 0; r < rows; ++r) {
    FinishIntegerRow(args, sums + r * kPanelWidth, row_scales[r], row + r, column, n, zero_point);
  }
}

// ---- Integer path --------------------------------------------------------------------------------------------------------------

// How far ahead one row prefetches weights. Measured with weights in L3, two threads: 1024 x 1024 takes 5.5 us on Zen 5 (6.0 us at twice the
// distance, 6.4 us without), 4096 x 4096 216 us on Zen 3 at twice the distance and 234 us at this one (250 us without).
constexpr int64_t kPrefetchBytes = 2048;

// Tiles of this many rows fetch the next panel into L2 where the tier runs over the whole of K: one line a step, which four tiles make a panel. Then
// the first rows of that panel need not wait for L3, or for memory: on Zen 5 with weights of 32 MiB, 128 x 4096 x 4096 takes 2,290 us, not 2,420,
// and 16 x 768 x 3072 55 us, not 61. Lower tiles are as fast as weights arrive, and 4 x 4096 x 4096 loses a tenth by it.
constexpr int kLeastPrefetchRows = 5;

// sums[r][o] (+)= sum over the groups' k of x[r][k] * byte(k, o), for MR rows and NR registers of outputs; the first time they are set.
// `ahead`: what is fetched meanwhile.
template <class S, int MR, int NR>
TFCOMPRESS_NOINLINE void IntegerTile(const uint8_t* w, int64_t w_stride, const typename S::XElement* x, int64_t x_stride, int64_t groups,
                                      bool first, const uint8_t* ahead, int32_t* sums) {
  using V = typename S::V;
  constexpr int kSets = MR == 1 ? S::kOneRowSets : 1;
  V acc[kSets][MR][NR];
  TFCOMPRESS_UNROLL
  for (int s = 0; s < kSets; ++s) {
    TFCOMPRESS_UNROLL
    for (int r = 0; r < MR; ++r) {
      TFCOMPRESS_UNROLL
      for (int v = 0; v < NR; ++v) acc[s][r][v] = S::Zero();
    }
  }
  const auto half_step = [&](int set, auto half) __attribute__((always_inline)) {
    V weights[NR];
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NR; ++v) weights[v] = S::template Weights<half.value>(w + v * S::kOutputs * kGroup);
    TFCOMPRESS_UNROLL
    for (int r = 0; r < MR; ++r) {
      const V broadcast = S::template Broadcast<half.value>(x + r * x_stride);
      TFCOMPRESS_UNROLL
      for (int v = 0; v < NR; ++v) acc[set][r][v] = S::template Dot<MR>(acc[set][r][v], weights[v], broadcast);
    }
  };
  const auto step = [&](int set) __attribute__((always_inline)) {
    half_step(set, Index<0>{});
    if constexpr (S::kHalves == 2) half_step(set, Index<1>{});
    if constexpr (MR == 1) {  // one row is as fast as its weights arrive; for more rows fetching their own panel gained nothing, even from memory
      TFCOMPRESS_UNROLL
      for (int b = 0; b < NR * S::kOutputs * kGroup; b += 64) __builtin_prefetch(w + kPrefetchBytes + b);
    } else if constexpr (S::kWholeK && MR >= kLeastPrefetchRows) {
      __builtin_prefetch(ahead, 0, 2);
      ahead += 64;
    }
    w += w_stride;
    x += kGroup;
  };
  int64_t g = 0;
  for (; g + kSets <= groups; g += kSets) {
    TFCOMPRESS_UNROLL
    for (int s = 0; s < kSets; ++s) step(s);
  }
  if (g < groups) step(0);
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NR; ++v) {
      V total = acc[0][r][v];
      if (kSets == 2) total = S::Add(total, acc[kSets - 1][r][v]);
      int32_t* to = sums + r * kPanelWidth + v * S::kOutputs;
      S::StoreSums(to, first ? total : S::Add(total, S::LoadSums(to)));
    }
  }
}

// All columns of a panel for MR rows: tiles of NR registers while they fit, then of half as many.
template <class S, int MR, int NR>
void IntegerColumns(const uint8_t* w, int64_t width, int64_t column, const typename S::XElement* x, int64_t x_stride,
                    int64_t groups, bool first, const uint8_t* ahead, int32_t* sums) {
  constexpr int64_t kColumns = NR * S::kOutputs;
  for (; column + kColumns <= width; column += kColumns) {
    IntegerTile<S, MR, NR>(w + column * kGroup, width * kGroup, x, x_stride, groups, first, ahead, sums + column);
  }
  if constexpr (kColumns > kPanelQuantum) {
    if (column < width) IntegerColumns<S, MR, NR / 2>(w, width, column, x, x_stride, groups, first, ahead, sums);
  }
}

// Dispatches the number of rows of a tile, 1 <= rows <= MR, to the template.
template <class S, int MR = S::kRowTile>
TFCOMPRESS_INLINE void IntegerRows(int64_t rows, const uint8_t* w, int64_t width, const typename S::XElement* x, int64_t x_stride,
                                   int64_t groups, bool first, const uint8_t* ahead, int32_t* sums) {
  if constexpr (MR > 1) {
    if (rows < MR) return IntegerRows<S, MR - 1>(rows, w, width, x, x_stride, groups, first, ahead, sums);
  }
  IntegerColumns<S, MR, S::RegsFor(MR)>(w, width, 0, x, x_stride, groups, first, ahead, sums);
}

TFCOMPRESS_INLINE int64_t PanelWidth(const MatMulArgs& args, int64_t panel) {
  return Min(kPanelWidth, RoundUp(args.n, kPanelQuantum) - panel * kPanelWidth);
}

// kSpareZeroPoint: what Weights() leaves in the weights, to be taken from the sums; 0 where it makes them int8.
template <class S, int64_t kSpareZeroPoint = kZeroPoint>
void MultiplyInteger(const MatMulArgs& args, const Block& block, const QuantizedRows& quantized) {
  using XElement = typename S::XElement;
  const int64_t k4 = RoundUp(args.k, kGroup);
  const int64_t x_stride = quantized.row_bytes / static_cast<int64_t>(sizeof(XElement));
  constexpr int64_t kRowsOfPass = S::kWholeK ? S::kRowTile : kPassRows;
  constexpr int64_t kDepth = S::kWholeK ? kMaxInFeatures : kIntegerDepth;
  alignas(64) int32_t sums[kRowsOfPass * kPanelWidth];
  for (int64_t panel = block.panel_begin; panel < block.panel_end; ++panel) {
    const int64_t column = panel * kPanelWidth;
    const int64_t width = PanelWidth(args, panel);
    const int64_t valid = Min(width, args.n - column);
    ForEachRowTile(block.row_end - block.row_begin, kRowsOfPass, [&](int64_t pass_begin, int64_t rows) {
      const int64_t first = block.row_begin + pass_begin;
      const XElement* x = reinterpret_cast<const XElement*>(quantized.Row(first));
      const uint8_t* w = args.kernel + column * k4;
      // What the tiles of this pass fetch: a quarter of the next panel each, if they are its last four; else what is there.
      const int64_t tiles_left = (block.row_end - first - rows + S::kRowTile - 1) / S::kRowTile;
      const bool fetches = tiles_left < 4 && block.row_end - block.row_begin > 2 * S::kRowTile;
      const uint8_t* const ahead = fetches ? w + (4 + 3 - tiles_left) * (k4 * width / 4) : w;
      int64_t k = 0;
      do {  // once where there is no k at all: the sums are zeros
        const int64_t depth = Min(kDepth, k4 - k);
        const uint8_t* after = w + depth * width;
        ForEachRowTile(rows, S::kRowTile, [&](int64_t r0, int64_t height) {
          IntegerRows<S>(height, w, width, x + r0 * x_stride + k, x_stride, depth / kGroup, k == 0, ahead, sums + r0 * kPanelWidth);
        });
        w = after;
        k += depth;
      } while (k < k4);
      const RowScale* row_scales = quantized.row_scales + (first - quantized.first);
      FinishIntegerRows(args, sums, row_scales, first, rows, column, valid, kSpareZeroPoint);
    });
  }
}

// ---- Weight-only path ------------------------------------------------------------------------------------------------------------

// Few rows: weights are converted in registers and used at once. sums[r][o] = sum over k of x[r][k] * w_q(k, o).
template <class F, int MR, int NV>
TFCOMPRESS_NOINLINE void DirectTile(const uint8_t* w, int64_t w_stride, const float* x, int64_t x_stride, int64_t k, float* sums) {
  using V = typename F::V;
  V acc[MR][NV];
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NV; ++v) acc[r][v] = F::Zero();
  }
  // Registers of weights that are held at a time. Several rows: all, so that an activation is broadcast once for all of them. One
  // row: one, and the four activations of a group are what stays.
  constexpr int kHeld = MR == 1 ? 1 : NV;
  typename F::Raw raw[kHeld];
  const auto multiply = [&](int v0, auto index) __attribute__((always_inline)) {
    V weights[kHeld];
    TFCOMPRESS_UNROLL
    for (int v = 0; v < kHeld; ++v) weights[v] = F::template Decode<index.value>(raw[v]);
    TFCOMPRESS_UNROLL
    for (int r = 0; r < MR; ++r) {
      const V broadcast = F::Broadcast(x + r * x_stride + index.value);
      TFCOMPRESS_UNROLL
      for (int v = 0; v < kHeld; ++v) acc[r][v0 + v] = F::Fma(broadcast, weights[v], acc[r][v0 + v]);
    }
  };
  // A group of which `count` k are multiplied: kGroup, or fewer at the end of K, where x ends.
  const auto step = [&](int64_t count) __attribute__((always_inline)) {
    TFCOMPRESS_UNROLL
    for (int v0 = 0; v0 < NV; v0 += kHeld) {
      TFCOMPRESS_UNROLL
      for (int v = 0; v < kHeld; ++v) raw[v] = F::LoadRaw(w + (v0 + v) * F::kLanes * kGroup);
      multiply(v0, Index<0>{});
      if (count > 1) multiply(v0, Index<1>{});
      if (count > 2) multiply(v0, Index<2>{});
      if (count > 3) multiply(v0, Index<3>{});
    }
  };
  int64_t i = 0;
  for (; i + kGroup <= k; i += kGroup) {
    step(kGroup);
    w += w_stride;
    x += kGroup;
  }
  if (i < k) step(k - i);
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NV; ++v) F::Store(sums + r * kPanelWidth + v * F::kLanes, acc[r][v]);
  }
}

template <class F, int MR, int NV>
void DirectColumns(const uint8_t* w, int64_t width, int64_t column, const float* x, int64_t x_stride, int64_t k, float* sums) {
  constexpr int64_t kColumns = NV * F::kLanes;
  for (; column + kColumns <= width; column += kColumns) {
    DirectTile<F, MR, NV>(w + column * kGroup, width * kGroup, x, x_stride, k, sums + column);
  }
  if constexpr (kColumns > kPanelQuantum) {
    if (column < width) DirectColumns<F, MR, NV / 2>(w, width, column, x, x_stride, k, sums);
  }
}

template <class F, int MR = F::kDirectRows>
TFCOMPRESS_INLINE void DirectRows(int64_t rows, const uint8_t* w, int64_t width, const float* x, int64_t x_stride, int64_t k,
                                  float* sums) {
  if constexpr (MR > 1) {
    if (rows < MR) return DirectRows<F, MR - 1>(rows, w, width, x, x_stride, k, sums);
  }
  DirectColumns<F, MR, F::DirectRegsFor(MR)>(w, width, 0, x, x_stride, k, sums);
}

// Many rows: w_q as floats, [depth][NV * kLanes].
template <class F, int NV>
TFCOMPRESS_NOINLINE void DecodePanel(const uint8_t* w, int64_t w_stride, int64_t depth, float* decoded) {
  constexpr int64_t kColumns = NV * F::kLanes;
  for (int64_t i = 0; i < depth; i += kGroup, w += w_stride, decoded += kGroup * kColumns) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NV; ++v) {
      const typename F::Raw raw = F::LoadRaw(w + v * F::kLanes * kGroup);
      F::Store(decoded + 0 * kColumns + v * F::kLanes, F::template Decode<0>(raw));
      F::Store(decoded + 1 * kColumns + v * F::kLanes, F::template Decode<1>(raw));
      F::Store(decoded + 2 * kColumns + v * F::kLanes, F::template Decode<2>(raw));
      F::Store(decoded + 3 * kColumns + v * F::kLanes, F::template Decode<3>(raw));
    }
  }
}

// sums[r][o] += sum over k < depth of x[r][k] * decoded[k][o]
template <class F, int MR, int NV>
TFCOMPRESS_NOINLINE void DecodedTile(const float* decoded, const float* x, int64_t x_stride, int64_t depth, float* sums) {
  using V = typename F::V;
  V acc[MR][NV];
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NV; ++v) acc[r][v] = F::Load(sums + r * kPanelWidth + v * F::kLanes);
  }
  for (int64_t i = 0; i < depth; ++i) {
    V weights[NV];
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NV; ++v) weights[v] = F::Load(decoded + v * F::kLanes);
    TFCOMPRESS_UNROLL
    for (int r = 0; r < MR; ++r) {
      const V broadcast = F::Broadcast(x + r * x_stride);
      TFCOMPRESS_UNROLL
      for (int v = 0; v < NV; ++v) acc[r][v] = F::Fma(broadcast, weights[v], acc[r][v]);
    }
    decoded += NV * F::kLanes;
    x += 1;
  }
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NV; ++v) F::Store(sums + r * kPanelWidth + v * F::kLanes, acc[r][v]);
  }
}

template <class F, int NV, int MR = F::kRowTile>
TFCOMPRESS_INLINE void DecodedRows(int64_t rows, const float* decoded, const float* x, int64_t x_stride, int64_t depth,
                                   float* sums) {
  if constexpr (MR > 1) {
    if (rows < MR) return DecodedRows<F, NV, MR - 1>(rows, decoded, x, x_stride, depth, sums);
  }
  DecodedTile<F, MR, NV>(decoded, x, x_stride, depth, sums);
}

// `depth` of K for the columns of a panel: dequantised weights stay in L2 while every row tile passes over them.
template <class F, int NV>
void DecodedColumns(const uint8_t* w, int64_t width, int64_t column, const float* x, int64_t x_stride, int64_t depth, int64_t rows,
                    float* decoded, float* sums) {
  constexpr int64_t kColumns = NV * F::kLanes;
  static_assert(kColumns <= kFloatColumns, "the scratch memory holds kFloatColumns decoded columns");
  static_assert(kFloatDepth % kGroup == 0, "slices begin at a group");
  for (; column + kColumns <= width; column += kColumns) {
    DecodePanel<F, NV>(w + column * kGroup, width * kGroup, depth, decoded);
    ForEachRowTile(rows, F::kRowTile, [&](int64_t r0, int64_t height) {
      DecodedRows<F, NV>(height, decoded, x + r0 * x_stride, x_stride, depth, sums + r0 * kPanelWidth + column);
    });
  }
  if constexpr (kColumns > kPanelQuantum) {
    if (column < width) DecodedColumns<F, NV / 2>(w, width, column, x, x_stride, depth, rows, decoded, sums);
  }
}

template <class F>
void MultiplyFloat(const MatMulArgs& args, const Block& block, void* scratch) {
  const int64_t k4 = RoundUp(args.k, kGroup);
  char* next = static_cast<char*>(scratch);
  PreparedRows* const prepared = reinterpret_cast<PreparedRows*>(next);
  next += sizeof(PreparedRows);
  float* decoded = reinterpret_cast<float*>(next);
  next += kFloatDepth * kFloatColumns * 4;
  const int64_t held = Min(kFloatBlockRows, block.row_end - block.row_begin);
  float* sums = reinterpret_cast<float*>(next);  // [rows][kPanelWidth]
  next += held * kPanelWidth * 4;
  float* converted = reinterpret_cast<float*>(next);
  for (int64_t first = block.row_begin; first < block.row_end; first += kFloatBlockRows) {
    const int64_t rows = Min(kFloatBlockRows, block.row_end - first);
    const bool copies = CopiesRows(args);
    const float* x = copies ? converted : reinterpret_cast<const float*>(XRow(args, first));
    const int64_t x_stride = copies ? FloatStrideBytes(args.k) / 4 : args.x_stride;
    if (prepared->first != first) {
      for (int64_t r = 0; r < rows; ++r) {
        if (copies) LoadAsFloat(XRow(args, first + r), args.x_type, converted + r * x_stride, args.k);
        prepared->sums[r] = args.mean != nullptr ? SumOf(x + r * x_stride, args.k) : 0.0f;
      }
      prepared->first = first;
    }
    for (int64_t panel = block.panel_begin; panel < block.panel_end; ++panel) {
      const int64_t column = panel * kPanelWidth;
      const int64_t width = PanelWidth(args, panel);
      const uint8_t* w = args.kernel + column * k4;
      if (rows <= 2 * F::kDirectRows) {
        ForEachRowTile(rows, F::kDirectRows, [&](int64_t r0, int64_t height) {
          DirectRows<F>(height, w, width, x + r0 * x_stride, x_stride, args.k, sums + r0 * kPanelWidth);
        });
      } else {
        for (int64_t i = 0; i < rows * kPanelWidth; ++i) sums[i] = 0.0f;
        // All columns of the panel take a slice of K in turn, so that a slice of x comes from L3 once a panel.
        for (int64_t i = 0; i < args.k; i += kFloatDepth) {
          DecodedColumns<F, F::kRegs>(w + i * width, width, 0, x + i, x_stride, Min(kFloatDepth, args.k - i), rows, decoded, sums);
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        FinishRow(EpilogueAt(args, column), sums + r * kPanelWidth, 1.0f, prepared->sums[r], YAt(args, first + r, column),
                  Min(width, args.n - column));
      }
    }
  }
}

}  // namespace
}  // namespace tfcompress::int8

#endif  // TFCOMPRESS_FORMATS_INT8_MATMUL_INL_H_
