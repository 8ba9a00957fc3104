// The body of every sparse kernel: y = epilogue(x [m, k] times the stored weights [k, n]) for one block of the output. See kernels.h for
// the two kinds. An instruction-set file supplies primitives and includes this body:
//
//   Rows (one struct for each kind of values and reach):
//     kValues, kReach      what it multiplies
//     XElement             a prepared activation: float, uint16_t (bfloat16), int8_t, or uint8_t (x_q + 128)
//     Sum                  float or int32_t
//     Acc                  register(s) of 16 sums, in their order and nothing else;  Zero, Add
//     Step                 registers of one step;   LoadStep(indices, values)
//     kRowTile             most rows of a tile
//     kMostSets            sets of sums that one row, or a few, take in turn at most: 1 where an Acc is so many registers that it does not wait
//     kInterleaved         whether the rows of a tile lie interleaved, 64 bytes of each in turn: the loads of a step then differ by constants, and
//                          their addresses are known a few cycles earlier, which counts (int8, reach 128: 1.4 cycles a step and row, not 2.1)
//     Accumulate(Acc, Step, const XElement* window, piece): looks up in the window's pieces of 64 bytes, `piece` elements apart
//     kHoldsFrom           rows of a tile from which windows are held in registers, or kHoldsNone; otherwise
//     Piece, kPieces       64 bytes of a row, and how many a window has: 1, 2 or 4
//     LoadPiece, Accumulate(Acc, Step, Piece...)
//     WeightSums(Acc, Step)  adds the weights themselves; where XElement is uint8_t
//   Columns:
//     V, kWidth            register of kWidth floats;  Zero, Load, Store, Fma(a, b, c) = a * b + c, AddToInts(int32_t*, V)
//     Weights<values, n>(address): n weights;  Get<i>() broadcasts the i-th. WeightsInMemory asks C for BroadcastAt(const float*) and
//                          BroadcastBFloat16At(const uint16_t*)
//     Transpose(const float* from, from_stride, float* to, to_stride): kWidth x kWidth
//     kChains              registers of sums of a tile
//
// int8 values where bytes cannot be looked up are multiplied in float32, which is exact: see kExactSteps.
// Everything has internal linkage: see base/elementwise-inl.h.
#ifndef TFCOMPRESS_FORMATS_SPARSE_MATMUL_INL_H_
#define TFCOMPRESS_FORMATS_SPARSE_MATMUL_INL_H_

#include <type_traits>

#include "base/elementwise-inl.h"
#include "base/quantize-inl.h"
#include "base/tile-inl.h"
#include "formats/sparse/kernels.h"

namespace tfcompress::sparse {
namespace {

TFCOMPRESS_INLINE const char* XRow(const MatMulArgs& args, int64_t row) {
  return static_cast<const char*>(args.x) + row * args.x_stride * ElementBytes(args.x_type);
}

// Plain loops without an early end, which compilers vectorise.
Findings InspectStructure(const Matrix& a) {
  uint16_t last_window = 0;
  for (int64_t s = 0; s < a.steps; ++s) last_window = a.windows[s] > last_window ? a.windows[s] : last_window;
  const int64_t panels = NumPanels(a.n);
  uint32_t descents = 0;
  for (int64_t p = 0; p < panels; ++p) descents |= a.panels[p] > a.panels[p + 1] ? 1u : 0u;
  uint32_t differs = 0;
  for (int64_t j = 0; j < a.n; ++j) differs |= static_cast<uint32_t>(a.order[j]) ^ static_cast<uint32_t>(j);
  return {last_window, descents == 0, differs == 0};
}

// Quantised, or as float32, followed by zeros up to `extent`.
template <typename XElement>
RowScale PrepareRow(const MatMulArgs& args, int64_t row, int64_t extent, XElement* x) {
  constexpr int kZero = std::is_same<XElement, uint8_t>::value ? 128 : 0;
  const int64_t k = args.matrix.k;
  RowScale row_scale = {1.0f, 0};
  if (args.matrix.values_type == Values::kInt8) {
    const float x_scale = args.activations == Activations::kStatic ? args.x_scale : 0.0f;
    row_scale.scale = QuantizeRow<kZero>(XRow(args, row), args.x_type, k, x_scale, x).scale;  // nobody needs the sum
  } else if constexpr (std::is_same<XElement, float>::value) {
    LoadAsFloat(XRow(args, row), args.x_type, x, k);
  } else if constexpr (std::is_same<XElement, uint16_t>::value) {  // bfloat16
    ForEachChunk(XRow(args, row), args.x_type, k, [&](const float* v, int64_t i, int64_t n) {
      for (int64_t j = 0; j < n; ++j) x[i + j] = ToBFloat16(v[j]);
    });
  }
  for (int64_t i = k; i < extent; ++i) x[i] = static_cast<XElement>(kZero);
  return row_scale;
}

// ---- Epilogue ----------------------------------------------------------------------------------------------------------------

// The 16 lanes of a panel as one value of the compiler's vector extension: one AVX-512 register, two of AVX2, four of SSE2. Left to their
// vectorisers, compilers make of a loop over 16 lanes up to ten times as many instructions.
using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));  // for sums that may wrap around: those of malformed matrices

template <typename Lanes, typename T>
TFCOMPRESS_INLINE Lanes LoadLanes(const T* from) {
  Lanes lanes;
  __builtin_memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}
template <typename Lanes, typename T>
TFCOMPRESS_INLINE void StoreLanes(T* to, const Lanes& lanes) {
  __builtin_memcpy(to, &lanes, sizeof(lanes));
}

// What the rows of a panel have in common.
class PanelEpilogue {
 public:
  // `excess` is what all of the panel's integer sums are too large by.
  TFCOMPRESS_INLINE PanelEpilogue(const MatMulArgs& args, int64_t panel, const Words& excess) : excess_(excess), args_(args) {
    first_ = panel * kLanes;
    order_ = args.matrix.order + first_;
    lanes_ = Min(kLanes, args.matrix.n - first_);
    whole_ = args.matrix.in_order && lanes_ == kLanes;
    scale_ = Gather(args.scale, 1.0f);
    bias_ = Gather(args.bias, 0.0f);
  }

  // One row after another.
  template <typename Lanes>
  TFCOMPRESS_INLINE void FinishRows(const float* sums, const RowScale* row_scales, int64_t row, int64_t rows) const {
    for (int64_t r = 0; r < rows; ++r) Finish<1, Lanes>(reinterpret_cast<const Lanes*>(sums) + r, row_scales + r, row + r);
  }

  // y of MR rows from `row` on, out of sums[row][lane], which are Lanes: Floats or Ints. What is common, float32 without an activation or with
  // relu, stays in registers.
  template <int MR, typename Lanes, typename Acc>
  TFCOMPRESS_INLINE void Finish(const Acc* sums, const RowScale* row_scales, int64_t row) const {
    const bool relu = args_.activation == Activation::kRelu;
    if (whole_ && args_.y_type == ElementType::kFloat32 && (relu || args_.activation == Activation::kLinear)) {
      float* y = static_cast<float*>(args_.y) + row * args_.y_stride + first_;
      const Floats least = relu ? Floats{} : Floats{} - __builtin_inff();
      TFCOMPRESS_UNROLL
      for (int r = 0; r < MR; ++r) {
        const Floats value = Scaled(Total(LoadLanes<Lanes>(sums + r)), row_scales[r].scale);
        StoreLanes(y + r * args_.y_stride, Floats(value < least ? least : value));
      }
      return;
    }
    for (int64_t r = 0; r < MR; ++r) FinishOne(LoadLanes<Lanes>(sums + r), row_scales[r].scale, row + r);
  }

 private:
  TFCOMPRESS_INLINE Floats Gather(const float* from, float otherwise) const {
    if (from != nullptr && whole_) return LoadLanes<Floats>(from + first_);
    return GatherOneByOne(from, otherwise);
  }
  TFCOMPRESS_NOINLINE Floats GatherOneByOne(const float* from, float otherwise) const {
    float to[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) to[l] = otherwise;
    for (int64_t l = 0; from != nullptr && l < lanes_; ++l) to[l] = from[order_[l]];
    return LoadLanes<Floats>(to);
  }

  TFCOMPRESS_INLINE Ints Integers(const Ints& sums) const { return reinterpret_cast<Ints>(reinterpret_cast<Words>(sums) - excess_); }
  TFCOMPRESS_INLINE Ints Integers(const Floats&) const { return Ints{}; }
  TFCOMPRESS_INLINE Floats Total(const Ints& sums) const { return __builtin_convertvector(Integers(sums), Floats); }
  TFCOMPRESS_INLINE Floats Total(const Floats& sums) const { return sums; }
  TFCOMPRESS_INLINE Floats Scaled(Floats total, float row_scale) const { return row_scale * (scale_ * total) + bias_; }

  template <typename Lanes>
  TFCOMPRESS_NOINLINE void FinishOne(const Lanes& sums, float row_scale, int64_t row) const {
    const int64_t bytes = ElementBytes(args_.y_type);
    char out[kLanes * 4];
    if (args_.y_type == ElementType::kInt32) {
      StoreLanes(out, Integers(sums));
    } else {
      float v[kLanes];
      StoreLanes(v, Scaled(Total(sums), row_scale));
      ApplyActivation(args_.activation, v, kLanes);
      StoreFromFloat(v, out, args_.y_type, kLanes);
    }
    char* y = static_cast<char*>(args_.y) + row * args_.y_stride * bytes;
    if (whole_) {
      __builtin_memcpy(y + first_ * bytes, out, static_cast<uint64_t>(kLanes * bytes));
    } else {
      for (int64_t l = 0; l < lanes_; ++l) __builtin_memcpy(y + order_[l] * bytes, out + l * bytes, static_cast<uint64_t>(bytes));
    }
  }

  Words excess_;
  Floats scale_, bias_;
  const MatMulArgs& args_;
  const int32_t* order_;
  int64_t first_, lanes_;
  bool whole_;  // 16 outputs beside each other
};

// ---- Rows --------------------------------------------------------------------------------------------------------------------

// The steps [begin, end) of a matrix.
struct Steps {
  const uint16_t* windows;
  const uint8_t* indices;
  const char* values;
  int64_t count;
};

template <Values kValues>
TFCOMPRESS_INLINE Steps Part(const Steps& steps, int64_t begin, int64_t end) {
  const int64_t at = begin * StepEntries(kValues);
  return {steps.windows + begin, steps.indices + at, steps.values + at * ValueBytes(kValues), end - begin};
}

TFCOMPRESS_INLINE Steps StepsOf(const Matrix& a, int64_t begin, int64_t end) {
  const int64_t at = begin * StepEntries(a.values_type);
  return {a.windows + begin, a.indices + at, static_cast<const char*>(a.values) + at * ValueBytes(a.values_type), end - begin};
}

// Steps that are prefetched ahead of the one that up to three rows multiply: 10 to 13 % less time from L3, 0 to 5 % from L2, than by the CPU's own
// prefetchers alone.
constexpr int64_t kStepsAhead = 16;
// No tile holds its windows.
constexpr int kHoldsNone = 1 << 30;

// acc[r][lane] = sum over the steps of x[r][k] * w[k, lane] for MR rows; weight_sums[lane] = sum of w where that is asked for. Each step reads its
// windows from L1. One row, or a few, would wait for their own sums: they take several sets of them in turn.
template <class S, int MR, bool kSumWeights>
TFCOMPRESS_INLINE void MultiplySteps(const Steps& steps, const typename S::XElement* x, int64_t x_stride, typename S::Acc* acc,
                                     typename S::Acc* weight_sums) {
  constexpr int64_t kPiece = 64 / static_cast<int64_t>(sizeof(typename S::XElement));
  constexpr int64_t kStride = Stride(S::kValues), kEntries = StepEntries(S::kValues), kBytes = kEntries * ValueBytes(S::kValues);
  constexpr bool kKeeps = S::kHoldsFrom != kHoldsNone;  // what it adds up are registers
  constexpr int kFewRowsSets = MR == 1 ? 4 : MR <= 3 ? 2 : 1;
  constexpr int kSets = kFewRowsSets < S::kMostSets ? kFewRowsSets : S::kMostSets;
  typename S::Acc sums[kSets][MR], weights[kSets];
  TFCOMPRESS_UNROLL
  for (int set = 0; set < kSets; ++set) {
    weights[set] = S::Zero();
    TFCOMPRESS_UNROLL
    for (int r = 0; r < MR; ++r) sums[set][r] = S::Zero();
  }
  const uint16_t* windows = steps.windows;
  const uint8_t* indices = steps.indices;
  const char* values = steps.values;
  const auto step = [&](int set) __attribute__((always_inline)) {
    const uint64_t window = *windows;
    typename S::Step entry = S::LoadStep(indices, values);
    if constexpr (kKeeps) TFCOMPRESS_KEEP_ORDER(entry.values);  // otherwise each use loads them
    TFCOMPRESS_UNROLL
    for (int r = 0; r < MR; ++r) {
      if constexpr (S::kInterleaved) {
        static_assert(kStride % kPiece == 0, "a window begins with a piece");
        sums[set][r] = S::Accumulate(sums[set][r], entry, x + window * (kStride * MR) + r * kPiece, kPiece * MR);
      } else {
        sums[set][r] = S::Accumulate(sums[set][r], entry, x + window * kStride + r * x_stride, kPiece);
      }
    }
    if constexpr (kKeeps) {
      TFCOMPRESS_UNROLL
      for (int r = 0; r < MR; ++r) TFCOMPRESS_KEEP_ORDER(sums[set][r]);
    }
    if constexpr (kSumWeights) {
      weights[set] = S::WeightSums(weights[set], entry);
      if constexpr (kKeeps) TFCOMPRESS_KEEP_ORDER(weights[set]);
    }
    windows += 1;
    indices += kEntries;
    values += kBytes;
  };
  int64_t s = 0;
  for (; s + kSets <= steps.count; s += kSets) {
    if constexpr (MR <= 3) {  // loads of weights take the time
      TFCOMPRESS_UNROLL
      for (int64_t i = 0; i < kSets * kEntries; i += 64) __builtin_prefetch(indices + kStepsAhead * kEntries + i);
      TFCOMPRESS_UNROLL
      for (int64_t i = 0; i < kSets * kBytes; i += 64) __builtin_prefetch(values + kStepsAhead * kBytes + i);
    }
    TFCOMPRESS_UNROLL
    for (int set = 0; set < kSets; ++set) step(set);
  }
  for (; s < steps.count; ++s) step(0);
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    acc[r] = sums[0][r];
    TFCOMPRESS_UNROLL
    for (int set = 1; set < kSets; ++set) acc[r] = S::Add(acc[r], sums[set][r]);
  }
  if constexpr (kSumWeights) {
    TFCOMPRESS_UNROLL
    for (int set = 1; set < kSets; ++set) weights[0] = S::Add(weights[0], weights[set]);
    *weight_sums = weights[0];
  }
}

// Not inlined, where registers are few: with the epilogue's variables around it, compilers keep sums on the stack.
template <class S, int MR, bool kSumWeights>
TFCOMPRESS_NOINLINE void MultiplyStepsApart(const Steps& steps, const typename S::XElement* x, int64_t x_stride, typename S::Acc* acc,
                                            typename S::Acc* weight_sums) {
  MultiplySteps<S, MR, kSumWeights>(steps, x, x_stride, acc, weight_sums);
}

// The same where the rows' windows are held in registers for all steps that they have: L1 is read once for them, not once for each. Of two windows
// in a row that have two pieces, the second takes one over from the first. (To hand pieces on from each window to the next costs more in copies from
// register to register than loads.) Cycles a step and row of 8 rows of Zen 5, at two steps a window: reach 64 1.0 (1.2 from L1), reach 128 1.15 (2.0);
// the look-ups and products alone 0.83 and 0.91.
// Not inlined: with the epilogue's variables around it, the compiler keeps pointers in vector registers, and pieces on the stack.
template <class S, int MR, bool kSumWeights>
TFCOMPRESS_NOINLINE void MultiplyStepsHeld(const Steps& steps, const typename S::XElement* x, typename S::Acc* acc,
                                           typename S::Acc* weight_sums) {
  constexpr int64_t kPiece = 64 / static_cast<int64_t>(sizeof(typename S::XElement));
  constexpr int64_t kEntries = StepEntries(S::kValues), kBytes = kEntries * ValueBytes(S::kValues);
  static_assert(S::kInterleaved && Stride(S::kValues) == kPiece, "a window is a piece further than the last");
  typename S::Acc sums[MR], total = S::Zero();
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) sums[r] = S::Zero();
  const uint16_t* window = steps.windows;
  const uint16_t* const end = window + steps.count;
  const uint8_t* indices = steps.indices;
  const char* values = steps.values;
  typename S::Piece a[MR], b[MR];
  const auto load = [&](typename S::Piece * pieces, uint64_t first) __attribute__((always_inline)) {
    const typename S::XElement* from = x + first * (kPiece * MR);
    __asm__("" : "+r"(from));  // one register: the rows are constants away from it
    TFCOMPRESS_UNROLL
    for (int r = 0; r < MR; ++r) pieces[r] = S::LoadPiece(from + r * kPiece);
  };
  const auto multiply = [&](uint64_t held, const auto*... pieces) __attribute__((always_inline)) {
    do {
      const typename S::Step entry = S::LoadStep(indices, values);
      TFCOMPRESS_UNROLL
      for (int r = 0; r < MR; ++r) {
        sums[r] = S::Accumulate(sums[r], entry, pieces[r]...);
        TFCOMPRESS_KEEP_ORDER(sums[r]);
      }
      if constexpr (kSumWeights) total = S::WeightSums(total, entry);
      indices += kEntries;
      values += kBytes;
    } while (++window != end && *window == held);
  };
  while (window != end) {
    const uint64_t held = *window;
    load(a, held);
    if constexpr (S::kPieces == 1) {
      multiply(held, a);
    } else if constexpr (S::kPieces == 4) {
      typename S::Piece c[MR], d[MR];
      load(b, held + 1);
      load(c, held + 2);
      load(d, held + 3);
      multiply(held, a, b, c, d);
    } else {
      static_assert(S::kPieces == 2, "1, 2 or 4 pieces");
      load(b, held + 1);
      multiply(held, a, b);
      if (window != end && *window == held + 1) {
        load(a, held + 2);
        multiply(held + 1, b, a);
      }
    }
  }
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) acc[r] = sums[r];
  if constexpr (kSumWeights) *weight_sums = total;
}

// Panels that follow each other, times one tile of rows.
struct PanelsAndRows {
  int64_t panel_begin, panel_end;
  int64_t row;  // the tile's first
  const RowScale* row_scales;
  Words* weight_sums;  // [panels]: where x is unsigned; the first tile finds them
};

template <class S, int MR, bool kSumWeights>
TFCOMPRESS_NOINLINE void MultiplyPanels(const MatMulArgs& args, const PanelsAndRows& part, const typename S::XElement* x, int64_t x_stride) {
  using Sum = typename S::Sum;
  using Acc = typename S::Acc;
  static_assert(sizeof(Acc) == kLanes * sizeof(Sum), "16 sums");
  const Matrix& a = args.matrix;
  for (int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
    const Steps steps = StepsOf(a, a.panels[panel], a.panels[panel + 1]);
    Acc acc[MR], weights = S::Zero();
    if constexpr (S::kValues == Values::kInt8 && std::is_same<Sum, float>::value) {  // exact for so many steps at a time only
      Words totals[MR] = {};
      for (int64_t s = 0; s < steps.count; s += kExactSteps) {
        MultiplyStepsApart<S, MR, false>(Part<S::kValues>(steps, s, Min(steps.count, s + kExactSteps)), x, x_stride, acc, nullptr);
        for (int r = 0; r < MR; ++r) totals[r] += reinterpret_cast<Words>(__builtin_convertvector(LoadLanes<Floats>(&acc[r]), Ints));
      }
      const PanelEpilogue epilogue(args, panel, Words{});
      epilogue.template Finish<MR, Ints>(totals, part.row_scales, part.row);
    } else {
      if constexpr (MR >= S::kHoldsFrom) {
        MultiplyStepsHeld<S, MR, kSumWeights>(steps, x, acc, &weights);
      } else if constexpr (S::kHoldsFrom == kHoldsNone) {
        MultiplyStepsApart<S, MR, kSumWeights>(steps, x, x_stride, acc, &weights);
      } else {
        MultiplySteps<S, MR, kSumWeights>(steps, x, x_stride, acc, &weights);
      }
      Words excess = {};  // where activations are x_q + 128
      if constexpr (std::is_same<typename S::XElement, uint8_t>::value) {
        Words* weight_sums = part.weight_sums + (panel - part.panel_begin);
        if constexpr (kSumWeights) *weight_sums = LoadLanes<Words>(&weights);
        excess = *weight_sums * 128;
      }
      const PanelEpilogue epilogue(args, panel, excess);
      epilogue.template Finish<MR, std::conditional_t<std::is_same<Sum, float>::value, Floats, Ints>>(acc, part.row_scales, part.row);
    }
  }
}

// Dispatches the number of rows of a tile, 1 <= rows <= MR, to the template.
template <class S, int MR = S::kRowTile>
TFCOMPRESS_INLINE void MultiplyPanelsOf(int64_t rows, bool first_tile, const MatMulArgs& args, const PanelsAndRows& part,
                                        const typename S::XElement* x, int64_t x_stride) {
  if constexpr (MR > 1) {
    if (rows < MR) return MultiplyPanelsOf<S, MR - 1>(rows, first_tile, args, part, x, x_stride);
  }
  constexpr bool kUnsigned = std::is_same<typename S::XElement, uint8_t>::value;
  if constexpr (kUnsigned && MR > S::kRowTile / 2) {  // no tile but the first is lower
    if (!first_tile) return MultiplyPanels<S, MR, false>(args, part, x, x_stride);
  }
  MultiplyPanels<S, MR, kUnsigned>(args, part, x, x_stride);
}

// Puts one prepared row between the others of its tile: pieces of 64 bytes, `height` pieces apart.
template <typename XElement>
TFCOMPRESS_INLINE void Interleave(const XElement* row, int64_t extent, int64_t r, int64_t height, XElement* tile) {
  constexpr int64_t kPiece = 64 / static_cast<int64_t>(sizeof(XElement));
  for (int64_t i = 0; i < extent; i += kPiece) {
    __builtin_memcpy(tile + (i * height + r * kPiece), row + i, kPiece * sizeof(XElement));
  }
}

template <class S>
void MultiplyRows(const MatMulArgs& args, const Block& block, void* scratch) {
  using XElement = typename S::XElement;
  const Matrix& a = args.matrix;
  const int64_t extent = XExtent(a);
  const int64_t x_stride = RowStrideBytes(a, sizeof(XElement)) / static_cast<int64_t>(sizeof(XElement));
  ScratchHeader* held = static_cast<ScratchHeader*>(scratch);
  XElement* row_buffer = reinterpret_cast<XElement*>(static_cast<char*>(scratch) + kHeaderBytes);
  XElement* x = row_buffer + x_stride;
  for (int64_t first = block.row_begin; first < block.row_end; first += kRowsHeld) {
    const int64_t rows = Min(kRowsHeld, block.row_end - first);
    if (held->row_begin != first || held->row_end != first + rows) {
      ForEachRowTile(rows, S::kRowTile, [&](int64_t r0, int64_t height) {
        for (int64_t r = r0; r < r0 + height; ++r) {
          if constexpr (S::kInterleaved) {
            held->row_scales[r] = PrepareRow(args, first + r, extent, row_buffer);
            Interleave(row_buffer, extent, r - r0, height, x + r0 * x_stride);
          } else {
            held->row_scales[r] = PrepareRow(args, first + r, extent, x + r * x_stride);
          }
        }
      });
      held->row_begin = first;
      held->row_end = first + rows;
    }
    if (args.row_scale != nullptr && block.panel_begin == 0) {  // by one worker
      for (int64_t r = 0; r < rows; ++r) args.row_scale[first + r] = held->row_scales[r].scale;
    }
    // Panels whose weights stay in L2 while all row tiles pass; a tile's activations stay in L1 while those panels pass.
    for (int64_t panel0 = block.panel_begin; panel0 < block.panel_end;) {
      Words weight_sums[kRowsPanels];
      int64_t panel1 = panel0 + 1;
      const int64_t last = Min(block.panel_end, panel0 + kRowsPanels);
      while (panel1 < last && a.panels[panel1 + 1] - a.panels[panel0] <= kRowsSteps) ++panel1;
      ForEachRowTile(rows, S::kRowTile, [&](int64_t r0, int64_t height) {
        const PanelsAndRows part = {panel0, panel1, first + r0, held->row_scales + r0, weight_sums};
        MultiplyPanelsOf<S>(height, r0 == 0, args, part, x + r0 * x_stride, x_stride);
      });
      panel0 = panel1;
    }
  }
}

// ---- Columns ------------------------------------------------------------------------------------------------------------------

// 0 ... 127, -128 ... -1 as floats: a byte is its index.
struct Int8Floats {
  constexpr Int8Floats() : values() {
    for (int i = 0; i < 256; ++i) values[i] = static_cast<float>(i < 128 ? i : i - 256);
  }
  float values[256];
};
constexpr Int8Floats kInt8Floats;

// Weights that are broadcast from memory one by one.
template <class C, Values kValues>
struct WeightsInMemory {
  explicit WeightsInMemory(const char* from) : values(from) {}
  template <int kEntry>
  TFCOMPRESS_INLINE typename C::V Get() const {
    if constexpr (kValues == Values::kFloat32) return C::BroadcastAt(reinterpret_cast<const float*>(values) + kEntry);
    if constexpr (kValues == Values::kBFloat16) return C::BroadcastBFloat16At(reinterpret_cast<const uint16_t*>(values) + kEntry);
    return C::BroadcastAt(kInt8Floats.values + static_cast<uint8_t>(values[kEntry]));
  }
  const char* values;
};

// sums[lane][column] += sum over the steps of x[k][column] * w[k, lane], for NL lanes and NV registers of columns. x is
// [k][NV * kWidth]. Loads bound it: rows of x lie all over L1, and CPUs load little more than one such line a cycle. So the indices of the
// lanes come by one load, and where C can spread a register, the weights too.
template <class C, Values kValues, int NV, int NL>
TFCOMPRESS_NOINLINE void ColumnsTile(const Steps& steps, int64_t lane, int64_t reach, const float* x, void* sums) {
  using V = typename C::V;
  constexpr int64_t kPitch = NV * C::kWidth, kEntries = Entries(kValues), kStepEntries = StepEntries(kValues);
  V acc[NL][NV];
  float* float_sums = static_cast<float*>(sums);
  TFCOMPRESS_UNROLL
  for (int l = 0; l < NL; ++l) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NV; ++v) {
      acc[l][v] = kValues == Values::kInt8 ? C::Zero() : C::Load(float_sums + l * kPitch + v * C::kWidth);
    }
  }
  const uint8_t* indices = steps.indices + lane * kEntries;
  const char* values = steps.values + lane * kEntries * ValueBytes(kValues);
  const uint64_t mask = static_cast<uint64_t>(reach - 1);
  // Entries whose indices are loaded at a time.
  constexpr int kGroup = NL * kEntries < 8 ? NL * static_cast<int>(kEntries) : 8;
  for (int64_t s = 0; s < steps.count; ++s) {
    const float* window = x + static_cast<uint64_t>(steps.windows[s]) * (Stride(kValues) * kPitch);
    TFCOMPRESS_UNROLL
    for (int group = 0; group < NL * kEntries; group += kGroup) {
      uint64_t bytes = 0;
      __builtin_memcpy(&bytes, indices + group, kGroup);
      const typename C::template Weights<kValues, kGroup> weights(values + group * ValueBytes(kValues));
      const auto multiply = [&](auto entry) __attribute__((always_inline)) {
        if constexpr (entry.value < kGroup) {
          const V w = weights.template Get<entry.value>();
          const float* row = window + (bytes >> (8 * entry.value) & mask) * kPitch;
          const int l = (group + entry.value) / static_cast<int>(kEntries);
          TFCOMPRESS_UNROLL
          for (int v = 0; v < NV; ++v) acc[l][v] = C::Fma(C::Load(row + v * C::kWidth), w, acc[l][v]);
        }
      };
      multiply(std::integral_constant<int, 0>());
      multiply(std::integral_constant<int, 1>());
      multiply(std::integral_constant<int, 2>());
      multiply(std::integral_constant<int, 3>());
      multiply(std::integral_constant<int, 4>());
      multiply(std::integral_constant<int, 5>());
      multiply(std::integral_constant<int, 6>());
      multiply(std::integral_constant<int, 7>());
    }
    indices += kStepEntries;
    values += kStepEntries * ValueBytes(kValues);
  }
  TFCOMPRESS_UNROLL
  for (int l = 0; l < NL; ++l) {
    TFCOMPRESS_UNROLL
    for (int v = 0; v < NV; ++v) {
      if (kValues == Values::kInt8) {
        C::AddToInts(static_cast<int32_t*>(sums) + l * kPitch + v * C::kWidth, acc[l][v]);
      } else {
        C::Store(float_sums + l * kPitch + v * C::kWidth, acc[l][v]);
      }
    }
  }
}

// All lanes of a panel.
template <class C, Values kValues, int NV>
TFCOMPRESS_INLINE void ColumnsPanel(const Steps& steps, int64_t reach, const float* x, char* sums) {
  constexpr int NL = C::kChains / NV > 1 ? C::kChains / NV : 1;
  for (int64_t lane = 0; lane < kLanes; lane += NL) {
    ColumnsTile<C, kValues, NV, NL>(steps, lane, reach, x, sums + lane * NV * C::kWidth * 4);
  }
}

// `rows` prepared rows of x, kWidth at a time, become columns: xt[k][pitch].
template <class C>
void PrepareColumns(const MatMulArgs& args, int64_t first, int64_t rows, int64_t pitch, int64_t extent, float* row_buffer, float* xt,
                    RowScale* row_scales) {
  const int64_t stride = RowStrideBytes(args.matrix, 4) / 4;
  for (int64_t c0 = 0; c0 < pitch; c0 += C::kWidth) {
    for (int64_t c = 0; c < C::kWidth; ++c) {
      float* row = row_buffer + c * stride;
      if (c0 + c < rows) {
        row_scales[c0 + c] = PrepareRow(args, first + c0 + c, extent, row);
      } else {
        for (int64_t i = 0; i < extent; ++i) row[i] = 0.0f;
      }
    }
    for (int64_t k = 0; k < extent; k += C::kWidth) C::Transpose(row_buffer + k, stride, xt + k * pitch + c0, pitch);
  }
}

// How many windows are below the limit, in ascending order. In any other order: as many as 64 at a time have, up to the first 64 that are not all
// below it. Without an early end within the 64: compilers vectorise it.
TFCOMPRESS_INLINE int64_t CountBelow(const uint16_t* windows, int64_t count, int64_t limit) {
  constexpr int64_t kAtATime = 64;
  if (limit > 0xffff) return count;
  const auto most = static_cast<uint16_t>(limit);
  int64_t below = 0;
  while (below < count) {
    const int64_t n = Min(kAtATime, count - below);
    uint16_t found = 0;
    for (int64_t i = 0; i < n; ++i) found = static_cast<uint16_t>(found + (windows[below + i] < most ? 1 : 0));
    below += found;
    if (found < n) break;
  }
  return below;
}

template <class C, Values kValues, int NV>
void MultiplyColumnsOf(const MatMulArgs& args, int64_t first, int64_t rows, const Block& block, void* scratch) {
  constexpr int64_t kPitch = NV * C::kWidth;
  const Matrix& a = args.matrix;
  const int64_t extent = XExtent(a);
  ScratchHeader* held = static_cast<ScratchHeader*>(scratch);
  char* next = static_cast<char*>(scratch) + kHeaderBytes;
  float* xt = reinterpret_cast<float*>(next);
  next += RoundUp(extent, 16) * kPitch * 4;
  float* row_buffer = reinterpret_cast<float*>(next);
  next += 16 * RowStrideBytes(a, 4);
  char* sums = next;  // [panels][lanes][pitch]
  next += kColumnsPanels * kLanes * kPitch * 4;
  int64_t* cursors = reinterpret_cast<int64_t*>(next);
  if (held->row_begin != first || held->row_end != first + rows) {
    PrepareColumns<C>(args, first, rows, kPitch, extent, row_buffer, xt, held->row_scales);
    held->row_begin = first;
    held->row_end = first + rows;
  }
  if (args.row_scale != nullptr && block.panel_begin == 0) {  // by one worker
    for (int64_t r = 0; r < rows; ++r) args.row_scale[first + r] = held->row_scales[r].scale;
  }
  constexpr int64_t kPanelBytes = kLanes * kPitch * 4;
  constexpr int64_t kWindows = kColumnsDepth * kColumnsHeld / kPitch / Stride(kValues);
  const int64_t windows = NumWindows(kValues, a.k);
  for (int64_t panel0 = block.panel_begin; panel0 < block.panel_end; panel0 += kColumnsPanels) {
    const int64_t panels = Min(kColumnsPanels, block.panel_end - panel0);
    for (int64_t p = 0; p < panels; ++p) cursors[p] = a.panels[panel0 + p];
    for (int64_t p = 0; p < panels; ++p) __builtin_memset(sums + p * kPanelBytes, 0, kPanelBytes);
    for (int64_t window = 0; window < windows; window += kWindows) {
      // The last part takes all steps that are left, be they out of order.
      const int64_t limit = window + kWindows < windows ? window + kWindows : kMostWindows;
      for (int64_t p = 0; p < panels; ++p) {
        int64_t begin = cursors[p];
        const int64_t panel_end = a.panels[panel0 + p + 1];
        const int64_t part_end = begin + CountBelow(a.windows + begin, panel_end - begin, limit);
        while (begin < part_end) {
          const int64_t end = kValues == Values::kInt8 ? Min(part_end, begin + kExactSteps) : part_end;
          ColumnsPanel<C, kValues, NV>(StepsOf(a, begin, end), a.reach, xt, sums + p * kPanelBytes);
          begin = end;
        }
        cursors[p] = begin;
      }
    }
    for (int64_t p = 0; p < panels; ++p) {
      const PanelEpilogue epilogue(args, panel0 + p, Words{});
      const float* panel_sums = reinterpret_cast<const float*>(sums + p * kPanelBytes);
      using Lanes = std::conditional_t<kValues == Values::kInt8, Ints, Floats>;
      alignas(64) float by_row[kPitch * kLanes];  // or int32_t, whose bits are moved all the same
      for (int64_t c = 0; c < kPitch; c += C::kWidth) {
        for (int64_t l = 0; l < kLanes; l += C::kWidth) {
          C::Transpose(panel_sums + l * kPitch + c, kPitch, by_row + c * kLanes + l, kLanes);
        }
      }
      epilogue.template FinishRows<Lanes>(by_row, held->row_scales, first, rows);
    }
  }
}

// int8: the windows are of one of two lengths.
template <class S64, class S128>
void MultiplyInt8Rows(const MatMulArgs& args, const Block& block, void* scratch) {
  if (args.matrix.reach == 64) return MultiplyRows<S64>(args, block, scratch);
  MultiplyRows<S128>(args, block, scratch);
}

template <class C, Values kValues>
void MultiplyColumns(const MatMulArgs& args, const Block& block, void* scratch) {
  for (int64_t first = block.row_begin; first < block.row_end; first += kColumnsHeld) {
    const int64_t rows = Min(kColumnsHeld, block.row_end - first);
    if (rows > kFewColumns) {
      MultiplyColumnsOf<C, kValues, kColumnsHeld / C::kWidth>(args, first, rows, block, scratch);
    } else {
      MultiplyColumnsOf<C, kValues, kFewColumns / C::kWidth>(args, first, rows, block, scratch);
    }
  }
}

}  // namespace
}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_FORMATS_SPARSE_MATMUL_INL_H_
