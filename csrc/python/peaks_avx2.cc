#include <immintrin.h>

#include "python/peaks-inl.h"

namespace tfcompress {
namespace {

struct P {
  using F = __m256;
  using I = __m256i;
  static constexpr int kFloatOps = 16, kIntOps = 32, kBytes = 32;
  static F FloatZero() { return _mm256_setzero_ps(); }
  static I IntZero() { return _mm256_setzero_si256(); }
  static F Fma(F sum, F a) { return _mm256_fmadd_ps(a, a, sum); }
  static I Dot(I sum, I a) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, a)); }
  // As the kernels count: nibbles by tables.
  static I Count(I sum, I a) {
    const I nibbles = _mm256_set1_epi8(15);
    const I counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const I bits = _mm256_xor_si256(a, nibbles);
    const I low = _mm256_shuffle_epi8(counts, _mm256_and_si256(bits, nibbles));
    const I high = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi32(bits, 4), nibbles));
    return _mm256_add_epi8(sum, _mm256_add_epi8(low, high));
  }
  static I OrBytes(I sum, const char* p) { return _mm256_or_si256(sum, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  template <typename T>
  static void Keep(T& v) {
    __asm__ volatile("" : "+x"(v));
  }
};

}  // namespace

const PeakLoops& Avx2PeakLoops() {
  static constexpr PeakLoops loops = {FloatLoop<P>, IntLoop<P>, BinaryLoop<P>, ReadLoop<P>};
  return loops;
}

}  // namespace tfcompress
