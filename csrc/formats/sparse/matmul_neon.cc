// Advanced SIMD without dot products.
#include "formats/sparse/matmul_neon-inl.h"

namespace tfcompress::sparse {
namespace {

struct WideningMultiply {
  // Two products are at most 2 * 128 * 127 < 2^15.
  static int32x4_t Dot(int32x4_t sums, int8x16_t a, int8x16_t b) {
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
    return vpadalq_s16(sums, vpaddq_s16(low, high));
  }
};
template <int kReach>
using Int8Rows = LookedUpRows<WideningMultiply, kReach>;

}  // namespace

const Kernels& NeonKernels() {
  static constexpr Kernels kernels = {
      InspectStructure,
      {"loads of lanes + fmla", "loads of lanes + fmla", "tbl of 64 bytes + smull + addp + sadalp"},
      "fmla over 32 rows of x",
      {MultiplyRows<FloatRows<Values::kFloat32>>, MultiplyRows<FloatRows<Values::kBFloat16>>, MultiplyInt8Rows<Int8Rows<64>, Int8Rows<128>>},
      {MultiplyColumns<Columns, Values::kFloat32>, MultiplyColumns<Columns, Values::kBFloat16>, MultiplyColumns<Columns, Values::kInt8>},
      {4, 4, 1},
      {32.0, 65.0, 50.0},
      {165.0, 310.0, 660.0}};
  return kernels;
}

}  // namespace tfcompress::sparse
