// Armv8.2 dot products: levels are bytes that sdot multiplies, and udot adds up counts of bits.
#include "formats/binary/matmul_neon-inl.h"

namespace tfcompress::binary {
namespace {

// Tiles of 6 rows x 16 outputs hold 24 sums, 4 words, 1 broadcast, 1 count and the ones that udot multiplies counts by.
struct Signs : SignsOfFloats {
  static constexpr int kRowTile = 6;
  static constexpr int64_t kPartialSteps = 0;
  static constexpr int RegsFor(int rows) { return rows == 1 ? 16 : rows == 2 ? 8 : 4; }
  static V Count(V sums, V w, V x) {
    sums = vreinterpretq_u8_u32(vdotq_u32(vreinterpretq_u32_u8(sums), vcntq_u8(veorq_u8(w, x)), vdupq_n_u8(1)));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
};

// Four activations are a lane of their register.
struct Levels32 : Words {
  static constexpr int kOneRowSets = 2;
  static constexpr int64_t kPartialWords = 0;
  static V Broadcast(const int8_t* x) { return LoadLane0(x); }
  static V Dot(V sums, V levels, V x) {
    sums = vreinterpretq_u8_s32(vdotq_laneq_s32(vreinterpretq_s32_u8(sums), vreinterpretq_s8_u8(levels), vreinterpretq_s8_u8(x), 0));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
};

// A set bit becomes the int8 -1 by one instruction (cmtst), and the sums come out negative. Tiles of 8 rows x 8 outputs hold 16 sums, 2 words, 2
// registers of levels, 8 masks and a few activations.
struct BinaryBytes : Levels32 {
  static constexpr int kRowTile = 8;
  static constexpr int RegsFor(int rows) { return rows <= 3 ? 4 : 2; }
  template <int kBits, int kField>
  static V Field(V words) {
    static_assert(kBits == 1, "masks are levels of one bit");
    return MaskOf<kField>(words);
  }
  static void Store(int32_t* sums, V v) { vst1q_s32(sums, vnegq_s32(vreinterpretq_s32_u8(v))); }
};

// Tiles of 10 rows x 8 outputs hold 20 sums, 2 words, 2 registers of levels and a few activations.
struct TernaryBytes : Levels32 {
  static constexpr int kRowTile = 10;
  static constexpr int RegsFor(int rows) { return rows <= 4 ? 4 : 2; }
  template <int kBits, int kField>
  static V Field(V words) {
    return FieldOf<kBits, kField>(words);
  }
};

}  // namespace

const Kernels& DotProdKernels() {
  static constexpr Kernels kernels = MakeKernels<Signs, BinaryBytes, Tables, TernaryBytes>(
      "tbl of 64 bytes + fadd, 4x8 tile", "sdot on levels, 8x8 tile", "eor + cnt + udot, 6x16 tile", 6.0, 28.0, 80.0);
  return kernels;
}

}  // namespace tfcompress::binary
