#include "python/peaks_avx512-inl.h"

namespace tfcompress {
namespace {

struct P : Avx512Base {
  static constexpr int kIntOps = 64;
  static I Dot(I sum, I a) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, a)); }
};

}  // namespace

const PeakLoops& Avx512PeakLoops() {
  static constexpr PeakLoops loops = {FloatLoop<P>, IntLoop<P>, BinaryLoop<P>, ReadLoop<P>};
  return loops;
}

}  // namespace tfcompress
