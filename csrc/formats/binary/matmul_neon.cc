// Advanced SIMD without dot products: bits are counted in bytes (cnt), levels multiplied into 16-bit sums, which they cannot overflow.
#include "formats/binary/matmul_neon-inl.h"

namespace tfcompress::binary {
namespace {

// Tiles of 4 rows x 16 outputs hold 16 sums of bytes, 4 words and 1 broadcast; the sums that these are added to every 30 words wait in memory.
struct Signs : SignsOfFloats {
  static constexpr int kRowTile = 4;
  static constexpr int64_t kPartialSteps = 31;  // a byte counts up to 8 bits a step
  static constexpr int RegsFor(int rows) { return rows == 1 ? 16 : rows == 2 ? 8 : 4; }
  static V Count(V sums, V w, V x) {
    return vaddq_u8(sums, vcntq_u8(veorq_u8(w, x)));
  }
  static V AddPartial(V sums, V partial) {
    return vreinterpretq_u8_u32(vpadalq_u16(vreinterpretq_u32_u8(sums), vpaddlq_u8(partial)));
  }
};

struct NarrowSums : Words {
  static constexpr int kOneRowSets = 1;
  static V Broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return vreinterpretq_u8_s32(vdupq_n_s32(four));
  }
  static V AddPartial(V sums, V partial) {
    return vreinterpretq_u8_s32(vpadalq_s16(vreinterpretq_s32_u8(sums), vreinterpretq_s16_u8(partial)));
  }
};

// Levels of one bit are masks of the activations: no multiplication. A 16-bit sum grows by at most 254 a step, of which a word has 8.
struct BinaryBytes : NarrowSums {
  static constexpr int kRowTile = 4;
  static constexpr int64_t kPartialWords = 16;
  static_assert(kPartialWords * 8 * 254 < 32768, "16-bit sums must not overflow");
  static constexpr int RegsFor(int rows) { return rows <= 2 ? 4 : 2; }
  template <int kBits, int kField>
  static V Field(V words) {
    static_assert(kBits == 1, "masks are levels of one bit");
    return MaskOf<kField>(words);
  }
  static V Dot(V sums, V levels, V x) {
    sums = vreinterpretq_u8_s16(vpadalq_s8(vreinterpretq_s16_u8(sums), vreinterpretq_s8_u8(vandq_u8(levels, x))));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
};

// Levels are 0 ... 3: a step adds at most 2 * 3 * 127 = 762 to a 16-bit sum, and a word has 4.
struct TernaryBytes : NarrowSums {
  static constexpr int kRowTile = 4;
  static constexpr int64_t kPartialWords = 10;
  static_assert(kPartialWords * 4 * 762 < 32768, "16-bit sums must not overflow");
  static constexpr int RegsFor(int) { return 4; }
  template <int kBits, int kField>
  static V Field(V words) {
    return FieldOf<kBits, kField>(words);
  }
  static V Dot(V sums, V levels, V x) {
    const int8x16_t a = vreinterpretq_s8_u8(levels), b = vreinterpretq_s8_u8(x);
    const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
    sums = vreinterpretq_u8_s16(vaddq_s16(vreinterpretq_s16_u8(sums), pairs));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
};

}  // namespace

const Kernels& NeonKernels() {
  static constexpr Kernels kernels = MakeKernels<Signs, BinaryBytes, Tables, TernaryBytes>(
      "tbl of 64 bytes + fadd, 4x8 tile", "and + sadalp, 4x8 tile", "eor + cnt + add, 4x16 tile", 2.0, 14.0, 70.0);
  return kernels;
}

}  // namespace tfcompress::binary
