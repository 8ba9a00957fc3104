// What both AArch64 tiers share: bytes as int8, and the weight-only path.
#ifndef TFCOMPRESS_FORMATS_INT8_MATMUL_NEON_INL_H_
#define TFCOMPRESS_FORMATS_INT8_MATMUL_NEON_INL_H_

#include "base/arm_intrinsics.h"
#include "formats/int8/matmul-inl.h"

namespace tfcompress::int8 {
namespace {

// A register of 4 groups, of 4 outputs, as int8: byte - 128.
TFCOMPRESS_INLINE int8x16_t LoadSigned(const uint8_t* w) { return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w), vdupq_n_u8(kZeroPoint))); }

// What is the same of int32 sums on both tiers.
struct IntegerBase {
  using V = int32x4_t;
  using XElement = int8_t;
  static constexpr int kOutputs = 4;
  static constexpr int kHalves = 1;
  static constexpr int kOneRowSets = 1;
  static constexpr bool kWholeK = false;
  static V Zero() { return vdupq_n_s32(0); }
  template <int kHalf>
  static V Weights(const uint8_t* w) {
    return vreinterpretq_s32_s8(LoadSigned(w));
  }
  static void ArrangeGroups(int8_t*, int64_t) {}
  static V Add(V a, V b) { return vaddq_s32(a, b); }
  static V LoadSums(const int32_t* sums) { return vld1q_s32(sums); }
  static void StoreSums(int32_t* sums, V v) { vst1q_s32(sums, v); }
};

// 32 registers: tiles of 6 rows x 16 outputs hold 24 sums, 4 weights and a few activations, each in lane 0.
struct Float {
  using V = float32x4_t;
  using Raw = uint8x16_t;
  static constexpr int kLanes = 4;
  static constexpr int kRowTile = 6;
  static constexpr int kRegs = 4;
  static constexpr int kDirectRows = 4;
  static constexpr int DirectRegsFor(int rows) { return rows == 1 ? 8 : 4; }
  static V Zero() { return vdupq_n_f32(0.0f); }
  static V Load(const float* p) { return vld1q_f32(p); }
  static void Store(float* p, V v) { vst1q_f32(p, v); }
  static V Broadcast(const float* p) { return vreinterpretq_f32_u8(LoadLane0(p)); }
  static V Fma(V a, V b, V c) { return vfmaq_laneq_f32(c, b, a, 0); }
  static Raw LoadRaw(const uint8_t* w) { return vreinterpretq_u8_s8(LoadSigned(w)); }
  // Byte j of each lane at the top of that lane is w_q * 2^24, which a conversion from fixed point divides by 2^24.
  template <int kIndex>
  static V Decode(Raw raw) {
    constexpr uint8_t kNone = 255;  // looks up a zero
    const uint8x16_t top = {kNone, kNone, kNone, kIndex,     kNone, kNone, kNone, kIndex + 4,
                            kNone, kNone, kNone, kIndex + 8, kNone, kNone, kNone, kIndex + 12};
    return vcvtq_n_f32_s32(vreinterpretq_s32_u8(vqtbl1q_u8(raw, top)), 24);
  }
};

}  // namespace
}  // namespace tfcompress::int8

#endif  // TFCOMPRESS_FORMATS_INT8_MATMUL_NEON_INL_H_
