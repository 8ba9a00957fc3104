// AVX-512 VNNI: vpdpbusd multiplies four unsigned weight bytes by four int8 activations and adds them to an int32 lane, without
// saturation. 32 registers: tiles of 6 rows x 64 outputs hold 24 sums, 4 weights and 1 broadcast.
#include "base/x86_intrinsics.h"
#include "formats/int8/matmul_avx512-inl.h"

namespace tfcompress::int8 {
namespace {

struct Integer {
  using V = __m512i;
  using XElement = int8_t;
  static constexpr int kOutputs = 16;
  static constexpr int kHalves = 1;
  static constexpr int kRowTile = 6;
  static constexpr int kOneRowSets = 2;
  static constexpr bool kWholeK = true;
  static constexpr int RegsFor(int) { return 4; }
  static V Zero() { return _mm512_setzero_si512(); }
  template <int kHalf>
  static V Weights(const uint8_t* w) {
    // Opaque, or compilers load the weights of three rows anew for each row: 15 loads a step, not 7.
    V weights = _mm512_loadu_si512(w);
    TFCOMPRESS_KEEP_ORDER(weights);
    return weights;
  }
  template <int kHalf>
  static V Broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  // One row: without the barrier compilers copy its sums twice a step (38 instructions, not 22). More rows are better off without.
  template <int kRows>
  static V Dot(V sums, V w, V x) {
    sums = _mm512_dpbusd_epi32(sums, w, x);
    if constexpr (kRows == 1) TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static void ArrangeGroups(int8_t*, int64_t) {}
  static V Add(V a, V b) { return _mm512_add_epi32(a, b); }
  static V LoadSums(const int32_t* sums) { return _mm512_loadu_si512(sums); }
  static void StoreSums(int32_t* sums, V v) { _mm512_storeu_si512(sums, v); }
};

}  // namespace

const Kernels& Avx512VnniKernels() {
  static constexpr Kernels kernels = {"vpdpbusd, 6x64 tile", "decode to float + vfmadd231ps, 12x32 tile", 4, 58.0, 14.0,
                                      QuantizeRows<Integer>, MultiplyInteger<Integer>, MultiplyFloat<Float>};
  return kernels;
}

}  // namespace tfcompress::int8
