// What the AVX-512 tiers share: words, signs of floats, and look-ups in tables of floats, which fill a register.
#ifndef TFCOMPRESS_FORMATS_BINARY_MATMUL_AVX512_INL_H_
#define TFCOMPRESS_FORMATS_BINARY_MATMUL_AVX512_INL_H_

#include "formats/binary/matmul-inl.h"

namespace tfcompress::binary {
namespace {

struct Words {
  using V = __m512i;
  static constexpr int kOutputs = 16;
  static V Zero() { return _mm512_setzero_si512(); }
  static V Load(const uint8_t* w) { return _mm512_loadu_si512(w); }
  static V Add(V a, V b) { return _mm512_add_epi32(a, b); }
  static void Store(int32_t* sums, V v) { _mm512_storeu_si512(sums, v); }
};

struct SignsOfFloats : Words {
  static uint32_t Words32(const float* x, uint32_t* nans) {
    const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16), zero = _mm512_setzero_ps();
    *nans |= _mm512_cmp_ps_mask(low, high, _CMP_UNORD_Q);
    return static_cast<uint32_t>(_mm512_cmp_ps_mask(low, zero, _CMP_NLT_UQ)) |
           static_cast<uint32_t>(_mm512_cmp_ps_mask(high, zero, _CMP_NLT_UQ)) << 16;
  }
  static uint32_t AtLeast16(const int32_t* a, const int32_t* b) {
    return _mm512_cmp_epi32_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b), _MM_CMPINT_NLT);
  }
  static V Broadcast(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static V And(V a, V b) { return _mm512_and_si512(a, b); }
};

// The f-th level of each byte. A shift of 32-bit lanes brings neighbours' bits along, which the mask removes.
template <int kBits, int kField>
TFCOMPRESS_INLINE __m512i FieldOf(__m512i words) {
  const __m512i mask = _mm512_set1_epi8((1 << kBits) - 1);
  return _mm512_and_si512(kField == 0 ? words : _mm512_srli_epi32(words, kField * kBits), mask);
}

// 32 registers: tiles of 4 rows x 64 outputs hold 16 sums, 4 words and 4 indices; the tables are memory operands of vpermps, which uses the
// 4 lowest bits of an index.
struct Tables : Words {
  using F = __m512;
  using Index = __m512i;
  static constexpr int kRowTile = 4;
  static constexpr int kOneRowSets = 2;
  static constexpr int RegsFor(int) { return 4; }
  static F Zero() { return _mm512_setzero_ps(); }
  template <int kGroup>
  static Index Group(V words) {
    return kGroup == 0 ? words : _mm512_srli_epi32(words, 4 * kGroup);
  }
  // Kept in order: compilers would look many entries up before they add the first, and spill them, at less than half the speed.
  static F AddEntries(F sums, Index index, const float* table) {
    sums = _mm512_add_ps(sums, _mm512_permutexvar_ps(index, _mm512_loadu_ps(table)));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static void Store(float* sums, F v) { _mm512_storeu_ps(sums, v); }
};

}  // namespace
}  // namespace tfcompress::binary

#endif  // TFCOMPRESS_FORMATS_BINARY_MATMUL_AVX512_INL_H_
