// What both AArch64 tiers share: float rows, look-ups of int8, and columns of 4.
#ifndef TFCOMPRESS_FORMATS_SPARSE_MATMUL_NEON_INL_H_
#define TFCOMPRESS_FORMATS_SPARSE_MATMUL_NEON_INL_H_

#include "base/arm_intrinsics.h"
#include "formats/sparse/matmul-inl.h"

namespace tfcompress::sparse {
namespace {

// Sums of malformed matrices may wrap around.
TFCOMPRESS_INLINE int32x4_t AddWrapping(int32x4_t a, int32x4_t b) {
  return vreinterpretq_s32_u32(vaddq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}

// ---- Rows of float ---------------------------------------------------------------------------------------------------------------------
//
// Activations are loaded one by one: 16 of them take 16 loads, 16 instructions that extract an index, and 12 that join four lanes. Look-ups inside
// registers are longer: a window of 64 floats is four tables of 64 bytes, all of which 4 lanes would look up.

struct FloatSums {
  float32x4_t of[4];  // lanes 0-3, 4-7, 8-11 and 12-15
};

template <Values kStored>
struct FloatRows {
  static constexpr Values kValues = kStored;
  using XElement = float;
  using Sum = float;
  using Acc = FloatSums;
  struct Step {
    const uint8_t* indices;
    const char* values;
  };
  static constexpr int kRowTile = kStored == Values::kFloat32 ? 2 : 1;  // two rows share the indices, for which general registers must do
  static constexpr int kMostSets = 1;
  static constexpr bool kInterleaved = false;
  static constexpr int kHoldsFrom = kHoldsNone;
  static Acc Zero() { return {{vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}}; }
  static Acc Add(Acc a, const Acc& b) {
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 4; ++i) a.of[i] = vaddq_f32(a.of[i], b.of[i]);
    return a;
  }
  static Step LoadStep(const uint8_t* indices, const char* values) { return {indices, values}; }
  // The activations that four indices name, kBits apart in a word of 64.
  template <int kBits, int kFirst>
  static float32x4_t Gather(const float* x, uint64_t indices) {
    const auto at = [&](int i) __attribute__((always_inline)) { return x + (indices >> (kFirst + i * kBits) & 63); };
    return float32x4_t{*at(0), *at(1), *at(2), *at(3)};
  }
  static uint64_t Load8(const void* from) {
    uint64_t bytes;
    __builtin_memcpy(&bytes, from, sizeof(bytes));
    return bytes;
  }
  static Acc Accumulate(Acc sum, const Step& step, const float* x, int64_t) {
    if constexpr (kStored == Values::kFloat32) {
      const float* w = reinterpret_cast<const float*>(step.values);
      TFCOMPRESS_UNROLL
      for (int i = 0; i < 4; i += 2) {
        const uint64_t indices = Load8(step.indices + 4 * i);
        sum.of[i] = vfmaq_f32(sum.of[i], Gather<8, 0>(x, indices), vld1q_f32(w + 4 * i));
        sum.of[i + 1] = vfmaq_f32(sum.of[i + 1], Gather<8, 32>(x, indices), vld1q_f32(w + 4 * i + 4));
      }
    } else {  // two entries a lane; bfloat16 values are the upper halves of floats
      TFCOMPRESS_UNROLL
      for (int i = 0; i < 4; ++i) {
        const uint64_t indices = Load8(step.indices + 8 * i);
        const uint32x4_t pairs = vreinterpretq_u32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(step.values) + 16 * i));
        const float32x4_t first = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
        const float32x4_t second = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
        sum.of[i] = vfmaq_f32(sum.of[i], Gather<16, 0>(x, indices), first);
        sum.of[i] = vfmaq_f32(sum.of[i], Gather<16, 8>(x, indices), second);
      }
    }
    return sum;
  }
};

// ---- Rows of int8 ----------------------------------------------------------------------------------------------------------------------

// A window of 64 bytes is the four registers of a tbl. Of a longer one both halves are looked up: an index beyond a table finds 0. (tbx, which would
// keep what the other half found, takes longer than tbl and orr.)
// M::Dot(sums, values, activations) adds four products to each int32 lane. 32 registers: tiles of 4 rows hold 16 sums, 4 registers of a table, 4 of
// indices and 4 of values; with two tables there is room for 2 rows.
template <class M, int kReach>
struct LookedUpRows {
  static constexpr Values kValues = Values::kInt8;
  using XElement = int8_t;
  using Sum = int32_t;
  struct Acc {
    int32x4_t of[4];
  };
  struct Step {
    uint8x16_t indices[4];
    int8x16_t values[4];
  };
  static constexpr int kRowTile = kReach == 64 ? 4 : 2;
  static constexpr int kMostSets = 1;
  static constexpr bool kInterleaved = true;
  static constexpr int kHoldsFrom = kHoldsNone;
  static Acc Zero() { return {{vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}}; }
  static Acc Add(Acc a, const Acc& b) {
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 4; ++i) a.of[i] = AddWrapping(a.of[i], b.of[i]);
    return a;
  }
  static Step LoadStep(const uint8_t* indices, const char* values) {
    Step step;
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 4; ++i) {
      step.indices[i] = vandq_u8(vld1q_u8(indices + 16 * i), vdupq_n_u8(kReach - 1));
      step.values[i] = vld1q_s8(reinterpret_cast<const int8_t*>(values) + 16 * i);
    }
    return step;
  }
  static Acc Accumulate(Acc sum, const Step& step, const int8_t* x, int64_t piece) {
    (void)piece;
    int8x16_t found[4];
    const int8x16x4_t table = vld1q_s8_x4(x);
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 4; ++i) found[i] = vqtbl4q_s8(table, step.indices[i]);
    if constexpr (kReach == 128) {
      const int8x16x4_t upper = vld1q_s8_x4(x + piece);
      TFCOMPRESS_UNROLL
      for (int i = 0; i < 4; ++i) found[i] = vorrq_s8(found[i], vqtbl4q_s8(upper, vsubq_u8(step.indices[i], vdupq_n_u8(64))));
    }
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 4; ++i) sum.of[i] = M::Dot(sum.of[i], step.values[i], found[i]);
    return sum;
  }
};

// ---- Columns ---------------------------------------------------------------------------------------------------------------------------

// A weight is lane 0 of its register. 32 registers: 16 sums, rows of x as they come, and a weight.
struct Columns {
  using V = float32x4_t;
  static constexpr int kWidth = 4;
  static constexpr int kChains = 16;
  template <Values kStored, int>
  using Weights = WeightsInMemory<Columns, kStored>;
  static V Zero() { return vdupq_n_f32(0.0f); }
  static V Load(const float* p) { return vld1q_f32(p); }
  static void Store(float* p, V v) { vst1q_f32(p, v); }
  static V BroadcastAt(const float* p) { return vreinterpretq_f32_u8(LoadLane0(p)); }
  static V BroadcastBFloat16At(const uint16_t* p) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u8(LoadHalfOfLane0(p)), 16)); }
  static V Fma(V a, V b, V c) { return vfmaq_laneq_f32(c, a, b, 0); }
  static void AddToInts(int32_t* to, V v) { vst1q_s32(to, AddWrapping(vld1q_s32(to), vcvtq_s32_f32(v))); }
  static void Transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    const float32x4_t a = vld1q_f32(from), b = vld1q_f32(from + from_stride);
    const float32x4_t c = vld1q_f32(from + 2 * from_stride), d = vld1q_f32(from + 3 * from_stride);
    const float32x4_t ac0 = vzip1q_f32(a, c), ac1 = vzip2q_f32(a, c), bd0 = vzip1q_f32(b, d), bd1 = vzip2q_f32(b, d);
    vst1q_f32(to, vzip1q_f32(ac0, bd0));
    vst1q_f32(to + to_stride, vzip2q_f32(ac0, bd0));
    vst1q_f32(to + 2 * to_stride, vzip1q_f32(ac1, bd1));
    vst1q_f32(to + 3 * to_stride, vzip2q_f32(ac1, bd1));
  }
};

}  // namespace
}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_FORMATS_SPARSE_MATMUL_NEON_INL_H_
