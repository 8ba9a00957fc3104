// AVX-512 F/BW/VL/DQ without VNNI: the AVX2 kernel's arithmetic on registers twice as wide, and twice as many of them.
#include "base/x86_intrinsics.h"
#include "formats/int8/matmul_avx512-inl.h"

namespace tfcompress::int8 {
namespace {

struct Integer {
  using V = __m512i;
  using XElement = int16_t;
  static constexpr int kOutputs = 8;  // two lanes each: k 0-1 and k 2-3 of a group
  static constexpr int kRowTile = 6;
  static constexpr int kOneRowSets = 1;
  static constexpr int RegsFor(int rows) { return rows <= 2 ? 8 : 4; }
  static V Zero() { return _mm512_setzero_si512(); }
  static V LoadWeights(const uint8_t* w) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
  }
  static V Broadcast(const int16_t* x) {
    return _mm512_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x)));
  }
  template <int kRows>
  static V Dot(V sums, V w, V x) {
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(w, x));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static V Add(V a, V b) { return _mm512_add_epi32(a, b); }
  static void StoreSums(int32_t* sums, V v) {
    const __m512i totals = _mm512_add_epi32(v, _mm512_srli_epi64(v, 32));  // of each pair, in its low half
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), _mm512_cvtepi64_epi32(totals));
  }
};

}  // namespace

const Kernels& Avx512Kernels() {
  static constexpr Kernels kernels = {"vpmovzxbw + vpmaddwd + vpaddd, 6x32 tile", "decode to float + vfmadd231ps, 12x32 tile", 8, 28.0, 14.0,
                                      MultiplyInteger<Integer>,           MultiplyFloat<Float>};
  return kernels;
}

}  // namespace tfcompress::int8
