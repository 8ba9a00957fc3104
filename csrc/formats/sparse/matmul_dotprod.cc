// Armv8.2 dot products: sdot multiplies 16 int8 activations that were looked up by 4 weights of each of 4 outputs.
#include "formats/sparse/matmul_neon-inl.h"

namespace tfcompress::sparse {
namespace {

struct DotProduct {
  static int32x4_t Dot(int32x4_t sums, int8x16_t a, int8x16_t b) { return vdotq_s32(sums, a, b); }
};
template <int kReach>
using Int8Rows = LookedUpRows<DotProduct, kReach>;

}  // namespace

const Kernels& DotProdKernels() {
  static constexpr Kernels kernels = {
      InspectStructure,
      {"loads of lanes + fmla", "loads of lanes + fmla", "tbl of 64 bytes + sdot"},
      "fmla over 32 rows of x",
      {MultiplyRows<FloatRows<Values::kFloat32>>, MultiplyRows<FloatRows<Values::kBFloat16>>, MultiplyInt8Rows<Int8Rows<64>, Int8Rows<128>>},
      {MultiplyColumns<Columns, Values::kFloat32>, MultiplyColumns<Columns, Values::kBFloat16>, MultiplyColumns<Columns, Values::kInt8>},
      {4, 4, 1},
      {12.5, 26.0, 18.0},
      {100.0, 190.0, 360.0}};
  return kernels;
}

}  // namespace tfcompress::sparse
