// AVX-512 without permutations of bytes: int8 activations are looked up as on AVX2 where there are few rows.
#include "base/x86_intrinsics.h"
#include "formats/sparse/int8_rows_avx2-inl.h"
#include "formats/sparse/matmul_avx512-inl.h"

namespace tfcompress::sparse {

const Kernels& Avx512Kernels() {
  static constexpr Kernels kernels = {
      InspectStructure,
      {"vpermi2ps + vfmadd231ps", "vpermi2ps + vfmadd231ps", "vpshufb + vpmaddubsw"},
      "vfmadd231ps over 32 rows of x",
      {MultiplyRows<Float32Rows>, MultiplyRows<BFloat16Rows>, MultiplyInt8Rows<ShuffledInt8Rows<64>, ShuffledInt8Rows<128>>},
      {MultiplyColumns<Columns, Values::kFloat32>, MultiplyColumns<Columns, Values::kBFloat16>, MultiplyColumns<Columns, Values::kInt8>},
      {4, 4, 1},
      {2.0, 2.5, 15.0},
      {36.0, 37.0, 100.0}};
  return kernels;
}

}  // namespace tfcompress::sparse
