// What both AArch64 tiers share: words, signs of floats, and look-ups in tables of floats, which fill the four registers of a tbl.
#ifndef TFCOMPRESS_FORMATS_BINARY_MATMUL_NEON_INL_H_
#define TFCOMPRESS_FORMATS_BINARY_MATMUL_NEON_INL_H_

#include "base/arm_intrinsics.h"
#include "formats/binary/matmul-inl.h"

namespace tfcompress::binary {
namespace {

struct Words {
  using V = uint8x16_t;
  static constexpr int kOutputs = 4;
  static V Zero() { return vdupq_n_u8(0); }
  static V Load(const uint8_t* w) { return vld1q_u8(w); }
  static V Add(V a, V b) { return vreinterpretq_u8_u32(vaddq_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b))); }
  static void Store(int32_t* sums, V v) { vst1q_s32(sums, vreinterpretq_s32_u8(v)); }
};

// 16 masks of 32 bits as 16 bytes of one bit each: 1, 2, 4 ... 128, and again.
TFCOMPRESS_INLINE uint8x16_t BitsOfMasks(uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d) {
  const uint8x16_t bits = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
  const uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_u32(c), vreinterpretq_u16_u32(d));
  return vandq_u8(vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high)), bits);
}

// Those of 32 masks side by side.
TFCOMPRESS_INLINE uint32_t Gather(uint8x16_t low, uint8x16_t high) {
  const uint8x16_t twos = vpaddq_u8(low, high), fours = vpaddq_u8(twos, twos);
  return vgetq_lane_u32(vreinterpretq_u32_u8(vpaddq_u8(fours, fours)), 0);
}

struct SignsOfFloats : Words {
  static constexpr int64_t kPanelRows = 0;
  static uint32_t Words32(const float* x, uint32_t* nans) {
    uint32x4_t negative[8], numbers = vdupq_n_u32(0xffffffffu);
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 8; ++i) {
      const float32x4_t v = vld1q_f32(x + 4 * i);
      negative[i] = vcltzq_f32(v);
      numbers = vandq_u32(numbers, vceqq_f32(v, v));
    }
    *nans |= ~vminvq_u32(numbers);
    return ~Gather(BitsOfMasks(negative[0], negative[1], negative[2], negative[3]),
                   BitsOfMasks(negative[4], negative[5], negative[6], negative[7]));
  }
  static uint32_t AtLeast16(const int32_t* a, const int32_t* b) {
    uint32x4_t least[4];
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 4; ++i) least[i] = vcgeq_s32(vld1q_s32(a + 4 * i), vld1q_s32(b + 4 * i));
    return Gather(BitsOfMasks(least[0], least[1], least[2], least[3]), vdupq_n_u8(0));
  }
  static V Broadcast(uint32_t word) { return vreinterpretq_u8_u32(vdupq_n_u32(word)); }
  static V And(V a, V b) { return vandq_u8(a, b); }
};

// The f-th level of each byte.
template <int kBits, int kField>
TFCOMPRESS_INLINE uint8x16_t FieldOf(uint8x16_t words) {
  constexpr int kShift = kField * kBits;
  if constexpr (kShift + kBits == 8) return vshrq_n_u8(words, kShift);
  const uint8x16_t mask = vdupq_n_u8((1 << kBits) - 1);
  if constexpr (kShift == 0) return vandq_u8(words, mask);
  return vandq_u8(vshrq_n_u8(words, kShift == 0 ? 1 : kShift), mask);
}

// 0xff where the f-th bit of a byte is set: one instruction, where a shift and a mask are two.
template <int kField>
TFCOMPRESS_INLINE uint8x16_t MaskOf(uint8x16_t words) {
  return vtstq_u8(words, vdupq_n_u8(1 << kField));
}

// An entry is 4 bytes: 4 * index ... 4 * index + 3. 32 registers: tiles of 4 rows x 8 outputs hold 8 sums, 2 words, 2 registers of their bytes
// spread and 2 of indices, 4 of a table, and 6 constants.
struct Tables : Words {
  using F = float32x4_t;
  using Index = uint8x16_t;
  static constexpr int kRowTile = 4;
  static constexpr int kOneRowSets = 1;
  static constexpr int RegsFor(int rows) { return rows <= 2 ? 4 : 2; }
  static F Zero() { return vdupq_n_f32(0.0f); }
  template <int kGroup>
  static Index Group(V words) {
    constexpr uint8_t b = kGroup / 2;  // which byte of a word; all four of the result are made of it
    const uint8x16_t spread = {b, b, b, b, b + 4, b + 4, b + 4, b + 4, b + 8, b + 8, b + 8, b + 8, b + 12, b + 12, b + 12, b + 12};
    const uint8x16_t bytes_of_entry = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    const uint8x16_t bytes = vqtbl1q_u8(words, spread);
    const uint8x16_t times_four = kGroup % 2 == 0 ? vshlq_n_u8(bytes, 2) : vshrq_n_u8(bytes, 2);
    return vbslq_u8(vdupq_n_u8(0xc3), bytes_of_entry, times_four);
  }
  static F AddEntries(F sums, Index index, const float* table) {
    sums = vaddq_f32(sums, vreinterpretq_f32_u8(vqtbl4q_u8(vld1q_u8_x4(reinterpret_cast<const uint8_t*>(table)), index)));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static F Add(F a, F b) { return vaddq_f32(a, b); }
  static void Store(float* sums, F v) { vst1q_f32(sums, v); }
};

}  // namespace
}  // namespace tfcompress::binary

#endif  // TFCOMPRESS_FORMATS_BINARY_MATMUL_NEON_INL_H_
