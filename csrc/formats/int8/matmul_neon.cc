// Advanced SIMD without dot products: products of bytes are int16 (smull), two neighbours are added as int16 (addp), two of those added to
// an int32 sum (sadalp). Nothing saturates or wraps: |w_q| <= 128 and |x_q| <= 127, and 2 * 128 * 127 < 2^15.
// 16 multiply-adds take 4 instructions, two of which multiply; smull and smlal on int16 would take 4 that multiply. 32 registers: tiles of 6
// rows x 16 outputs hold 24 sums, 4 weights, 1 broadcast and 2 products.
#include "formats/int8/matmul_neon-inl.h"

namespace tfcompress::int8 {
namespace {

struct Integer : IntegerBase {
  static constexpr int kRowTile = 6;
  static constexpr int RegsFor(int rows) { return rows == 1 ? 16 : rows == 2 ? 8 : 4; }
  template <int kHalf>
  static V Broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return vdupq_n_s32(four);
  }
  template <int kRows>
  static V Dot(V sums, V w, V x) {
    const int8x16_t weights = vreinterpretq_s8_s32(w), activations = vreinterpretq_s8_s32(x);
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(activations)), high = vmull_high_s8(weights, activations);
    sums = vpadalq_s16(sums, vpaddq_s16(low, high));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
};

}  // namespace

const Kernels& NeonKernels() {
  static constexpr Kernels kernels = {"smull + addp + sadalp, 6x16 tile", "decode to float + fmla, 6x16 tile", 4, 6.5, 3.5,
                                      QuantizeRows<Integer>, MultiplyInteger<Integer, 0>,         MultiplyFloat<Float>};
  return kernels;
}

}  // namespace tfcompress::int8
