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
  static I OrBytes(I sum, const char* p) { return _mm512_or_si512(sum, _mm512_loadu_si512(p)); }
  template <typename T>
  static void Keep(T& v) {
    __asm__ volatile("" : "+v"(v));
  }
};

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_PYTHON_PEAKS_AVX512_INL_H_
