#include "python/peaks_avx512-inl.h"

namespace tfcompress {
namespace {

struct P : Avx512Base {
  static constexpr int kIntOps = 128;
  static I Dot(I sum, I a) { return _mm512_dpbusd_epi32(sum, a, a); }
};

}  // namespace

const PeakLoops& Avx512VnniPeakLoops() {
  static constexpr PeakLoops loops = {FloatLoop<P>, IntLoop<P>, BinaryLoop<P>, ReadLoop<P>};
  return loops;
}

}  // namespace tfcompress
