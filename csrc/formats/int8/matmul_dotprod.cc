// Armv8.2 dot products: sdot multiplies four int8 weights by four int8 activations, a lane of their register, and adds them to an int32 lane.
// Weights become int8 by an exclusive or, which takes a slot of the same units as sdot: tiles are tall, so that there are few.
// 32 registers: tiles of 12 rows x 8 outputs hold 24 sums, 2 weights and a few activations: 24 of 26 slots are sdot.
#include "formats/int8/matmul_neon-inl.h"

namespace tfcompress::int8 {
namespace {

struct Integer : IntegerBase {
  static constexpr int kRowTile = 12;
  static constexpr int RegsFor(int rows) { return rows == 1 ? 16 : rows == 2 ? 8 : rows <= 6 ? 4 : 2; }
  template <int kHalf>
  static V Broadcast(const int8_t* x) {
    return vreinterpretq_s32_u8(LoadLane0(x));
  }
  template <int kRows>
  static V Dot(V sums, V w, V x) {
    return vdotq_laneq_s32(sums, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x), 0);
  }
};

}  // namespace

const Kernels& DotProdKernels() {
  static constexpr Kernels kernels = {"sdot, 12x8 tile",        "decode to float + fmla, 6x16 tile", 4, 29.0, 7.0,
                                      QuantizeRows<Integer>, MultiplyInteger<Integer, 0>, MultiplyFloat<Float>};
  return kernels;
}

}  // namespace tfcompress::int8
