// AVX-512 F and BW: AVX2's ways in twice the width.
#include "base/x86_intrinsics.h"
#include "formats/binary/signs_avx512-inl.h"

namespace tfcompress::binary {
namespace {

// See matmul_avx2.cc for why 5 words cannot saturate.
struct Bytes : Words {
  static constexpr int kRowTile = 4;
  static constexpr int kOneRowSets = 1;
  static constexpr int64_t kPartialWords = 5;
  static_assert(kPartialWords * 4 * 762 < 32768 && kPartialWords * 8 * 254 < 32768, "16-bit sums must not saturate");
  static constexpr int RegsFor(int rows) { return rows == 1 ? 4 : 2; }
  template <int kBits, int kField>
  static V Field(V words) {
    return FieldOf<kBits, kField>(words);
  }
  static V Broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  static V Dot(V sums, V levels, V x) {
    sums = _mm512_add_epi16(sums, _mm512_maddubs_epi16(levels, x));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static V AddPartial(V sums, V partial) { return _mm512_add_epi32(sums, _mm512_madd_epi16(partial, _mm512_set1_epi16(1))); }
};

}  // namespace

const Kernels& Avx512Kernels() {
  static constexpr Kernels kernels = MakeKernels<ShuffledSigns, Bytes, Tables>(
      "vpermps + vaddps, 4x64 tile", "vpmaddubsw on levels + vpaddw, 4x32 tile", "vpxord + 2 vpshufb + vpaddb, 4x32 tile", 60.0, 64.0, 240.0);
  return kernels;
}

}  // namespace tfcompress::binary
