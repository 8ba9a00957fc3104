// What the peak loops of both AVX-512 tiers share.
#ifndef TFCOMPRESS_PYTHON_PEAKS_AVX512_INL_H_
#define TFCOMPRESS_PYTHON_PEAKS_AVX512_INL_H_

#include <immintrin.h>

#include "python/peaks-inl.h"

namespace tfcompress {
namespace {

struct Avx512Base {
  using F = __m512;
  using I = __m512i;
  static constexpr int kFloatOps = 32, kBytes = 64;
  static F FloatZero() { return _mm512_setzero_ps(); }
  static I IntZero() { return _mm512_setzero_si512(); }
  static F Fma(F sum, F a) { return _mm512_fmadd_ps(a, a, sum); }
  // As the kernels count: nibbles by tables.
  static I Count(I sum, I a) {
    const I nibbles = _mm512_set1_epi8(15);
    const I counts = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const I bits = _mm512_xor_si512(a, nibbles);
    const I low = _mm512_shuffle_epi8(counts, _mm512_and_si512(bits, nibbles));
    const I high = _mm512_shuffle_epi8(counts, _mm512_and_si512(_mm512_srli_epi32(bits, 4), nibbles));
    return _mm512_add_epi8(sum, _mm512_add_epi8(low, high));
  }
  static I OrBytes(I sum, const char* p) { return _mm512_or_si512(sum, _mm512_loadu_si512(p)); }
  template <typename T>
  static void Keep(T& v) {
    __asm__ volatile("" : "+v"(v));
  }
};

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_PYTHON_PEAKS_AVX512_INL_H_
