// vpdpbusd on levels: what the tiers with VNNI share.
#ifndef TFCOMPRESS_FORMATS_BINARY_MATMUL_AVX512VNNI_INL_H_
#define TFCOMPRESS_FORMATS_BINARY_MATMUL_AVX512VNNI_INL_H_

#include "formats/binary/matmul_avx512-inl.h"

namespace tfcompress::binary {
namespace {

// Tiles of 5 rows x 64 outputs hold 20 sums, 4 words, 4 registers of levels and 1 broadcast. Shift and mask of a field are shared by the rows, and
// run beside vpdpbusd on other ports.
struct VnniBytes : Words {
  static constexpr int kRowTile = 5;
  static constexpr int kOneRowSets = 2;
  static constexpr int64_t kPartialWords = 0;
  static constexpr int RegsFor(int) { return 4; }
  template <int kBits, int kField>
  static V Field(V words) {
    return FieldOf<kBits, kField>(words);
  }
  static V Broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  static V Dot(V sums, V levels, V x) { return _mm512_dpbusd_epi32(sums, levels, x); }
};

}  // namespace
}  // namespace tfcompress::binary

#endif  // TFCOMPRESS_FORMATS_BINARY_MATMUL_AVX512VNNI_INL_H_
