// Counting bits without VPOPCNTDQ: what the AVX-512 tiers before it share.
#ifndef TFCOMPRESS_FORMATS_BINARY_SIGNS_AVX512_INL_H_
#define TFCOMPRESS_FORMATS_BINARY_SIGNS_AVX512_INL_H_

#include "formats/binary/matmul_avx512-inl.h"

namespace tfcompress::binary {
namespace {

struct ShuffledSigns : SignsOfFloats {
  static constexpr int kRowTile = 4;
  static constexpr int64_t kPartialSteps = 31;  // a byte counts up to 8 bits a step
  static constexpr int64_t kPanelRows = 0;
  static constexpr int RegsFor(int rows) { return rows <= 2 ? 4 : 2; }
  static V Count(V sums, V w, V x) {
    const V nibbles = _mm512_set1_epi8(15);
    const V counts = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const V bits = _mm512_xor_si512(w, x);
    const V low = _mm512_shuffle_epi8(counts, _mm512_and_si512(bits, nibbles));
    const V high = _mm512_shuffle_epi8(counts, _mm512_and_si512(_mm512_srli_epi32(bits, 4), nibbles));
    sums = _mm512_add_epi8(sums, _mm512_add_epi8(low, high));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static V AddPartial(V sums, V partial) {
    const V pairs = _mm512_maddubs_epi16(partial, _mm512_set1_epi8(1));
    return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
};

}  // namespace
}  // namespace tfcompress::binary

#endif  // TFCOMPRESS_FORMATS_BINARY_SIGNS_AVX512_INL_H_
