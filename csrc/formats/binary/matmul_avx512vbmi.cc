// AVX-512 with VNNI and VPOPCNTDQ: bits are counted in each 32-bit lane.
#include "base/x86_intrinsics.h"
#include "formats/binary/matmul_avx512vnni-inl.h"

namespace tfcompress::binary {
namespace {

// Tiles of 6 rows x 64 outputs hold 24 sums, 4 words and 1 broadcast.
struct Signs : SignsOfFloats {
  static constexpr int kRowTile = 6;
  static constexpr int kOneRowSets = 1;
  static constexpr int kPartialSteps = 0;
  static constexpr int64_t kPanelRows = 0;
  static constexpr int RegsFor(int) { return 4; }
  // Kept in order: compilers would count many words before they add the first, and spill.
  static V Count(V sums, V w, V x) {
    sums = _mm512_add_epi32(sums, _mm512_popcnt_epi32(_mm512_xor_si512(w, x)));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
};

}  // namespace

const Kernels& Avx512VbmiKernels() {
  static constexpr Kernels kernels = MakeKernels<Signs, VnniBytes, Tables>("vpermps + vaddps, 4x64 tile", "vpdpbusd on levels, 5x64 tile",
                                                                          "vpxord + vpopcntd + vpaddd, 6x64 tile", 60.0, 100.0, 450.0);
  return kernels;
}

}  // namespace tfcompress::binary
