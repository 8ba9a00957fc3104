// AVX-512 F/BW/VL/DQ without VNNI: the AVX2 kernel's arithmetic on registers twice as wide, and twice as many of them.
#include "base/x86_intrinsics.h"
#include "formats/int8/matmul_avx512-inl.h"

namespace tfcompress::int8 {
namespace {

struct Integer {
  using V = __m512i;
  using XElement = int16_t;
  static constexpr int kOutputs = 16;
  static constexpr int kHalves = 2;
  static constexpr int kRowTile = 6;
  static constexpr int kOneRowSets = 1;
  static constexpr bool kWholeK = true;
  static constexpr int RegsFor(int) { return 4; }
  static V Zero() { return _mm512_setzero_si512(); }
  template <int kHalf>
  static V Weights(const uint8_t* w) {
    const __m512i bytes = _mm512_loadu_si512(w);
    return kHalf == 0 ? _mm512_and_si512(bytes, _mm512_set1_epi32(0x00ff00ff)) : _mm512_srli_epi16(bytes, 8);
  }
  template <int kHalf>
  static V Broadcast(const int16_t* x) {
    int32_t two;
    __builtin_memcpy(&two, x + 2 * kHalf, sizeof(two));
    return _mm512_set1_epi32(two);
  }
  template <int kRows>
  static V Dot(V sums, V w, V x) {
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(w, x));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static void ArrangeGroups(int16_t* q, int64_t groups) { EvenThenOdd(q, groups); }
  static V Add(V a, V b) { return _mm512_add_epi32(a, b); }
  static V LoadSums(const int32_t* sums) { return _mm512_loadu_si512(sums); }
  static void StoreSums(int32_t* sums, V v) { _mm512_storeu_si512(sums, v); }
};

}  // namespace

const Kernels& Avx512Kernels() {
  static constexpr Kernels kernels = {"vpmaddwd + vpaddd, 6x64 tile", "decode to float + vfmadd231ps, 12x32 tile", 8, 28.0, 14.0,
                                      QuantizeRows<Integer>, MultiplyInteger<Integer>,           MultiplyFloat<Float>};
  return kernels;
}

}  // namespace tfcompress::int8
