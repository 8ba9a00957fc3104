// AVX-512 with VNNI, without VPOPCNTDQ (Cascade Lake).
#include "base/x86_intrinsics.h"
#include "formats/binary/matmul_avx512vnni-inl.h"
#include "formats/binary/signs_avx512-inl.h"

namespace tfcompress::binary {

const Kernels& Avx512VnniKernels() {
  static constexpr Kernels kernels = MakeKernels<ShuffledSigns, VnniBytes, Tables>(
      "vpermps + vaddps, 4x64 tile", "vpdpbusd on levels, 5x64 tile", "vpxord + 2 vpshufb + vpaddb, 4x32 tile", 60.0, 100.0, 240.0);
  return kernels;
}

}  // namespace tfcompress::binary
