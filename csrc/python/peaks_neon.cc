#include "python/peaks_neon-inl.h"

namespace tfcompress {
namespace {

struct P : NeonBase {
  // As the kernels multiply: smull, addp, sadalp.
  static I Dot(I sum, I a) {
    const int8x16_t b = vreinterpretq_s8_u8(a);
    const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(b), vget_low_s8(b)), vmull_high_s8(b, b));
    return vreinterpretq_u8_s32(vpadalq_s16(vreinterpretq_s32_u8(sum), pairs));
  }
};

}  // namespace

const PeakLoops& NeonPeakLoops() {
  static constexpr PeakLoops loops = {FloatLoop<P>, IntLoop<P>, BinaryLoop<P>, ReadLoop<P>};
  return loops;
}

}  // namespace tfcompress
