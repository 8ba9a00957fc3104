// AVX-512 VBMI and VNNI.
#include "base/x86_intrinsics.h"
#include "formats/sparse/int8_rows_avx512vbmi-inl.h"
#include "formats/sparse/matmul_avx512-inl.h"

namespace tfcompress::sparse {

const Kernels& Avx512VbmiKernels() {
  static constexpr Kernels kernels = {
      InspectStructure,
      {"vpermi2ps + vfmadd231ps", "vpermi2ps + vfmadd231ps", "vpermb or vpermi2b + vpdpbusd"},
      "vfmadd231ps over 32 rows of x",
      {MultiplyRows<Float32Rows>, MultiplyRows<BFloat16Rows>, MultiplyInt8Rows<Int8Rows<64>, Int8Rows<128>>},
      {MultiplyColumns<Columns, Values::kFloat32>, MultiplyColumns<Columns, Values::kBFloat16>, MultiplyColumns<Columns, Values::kInt8>},
      {4, 4, 1},
      {2.0, 2.5, 1.2},
      {36.0, 37.0, 100.0}};
  return kernels;
}

}  // namespace tfcompress::sparse
