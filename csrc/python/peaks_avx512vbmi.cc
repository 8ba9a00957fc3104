#include "python/peaks_avx512-inl.h"

namespace tfcompress {
namespace {

struct P : Avx512Base {
  static constexpr int kIntOps = 128;
  static I Dot(I sum, I a) { return _mm512_dpbusd_epi32(sum, a, a); }
  static I Count(I sum, I a) { return _mm512_add_epi32(sum, _mm512_popcnt_epi32(_mm512_xor_si512(a, _mm512_set1_epi32(5)))); }
};

}  // namespace

const PeakLoops& Avx512VbmiPeakLoops() {
  static constexpr PeakLoops loops = {FloatLoop<P>, IntLoop<P>, BinaryLoop<P>, ReadLoop<P>};
  return loops;
}

}  // namespace tfcompress
