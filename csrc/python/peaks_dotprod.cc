#include "python/peaks_neon-inl.h"

namespace tfcompress {
namespace {

struct P : NeonBase {
  static I Dot(I sum, I a) {
    const int8x16_t b = vreinterpretq_s8_u8(a);
    return vreinterpretq_u8_s32(vdotq_s32(vreinterpretq_s32_u8(sum), b, b));
  }
};

}  // namespace

const PeakLoops& DotProdPeakLoops() {
  static constexpr PeakLoops loops = {FloatLoop<P>, IntLoop<P>, BinaryLoop<P>, ReadLoop<P>};
  return loops;
}

}  // namespace tfcompress
