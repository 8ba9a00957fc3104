// AVX2 + FMA. Bytes are widened to int16: vpmaddubsw on bytes would saturate (255 * 127 * 2 > 32,767), vpmaddwd is exact. Widening is a
// mask for the even bytes of a group and a shift for the odd ones: no shuffle, and every lane holds one output.
// 16 registers: tiles of 6 rows x 16 outputs hold 12 sums, 2 weights, 1 broadcast and 1 product.
#include "base/x86_intrinsics.h"
#include "formats/int8/matmul-inl.h"

namespace tfcompress::int8 {
namespace {

struct Integer {
  using V = __m256i;
  using XElement = int16_t;
  static constexpr int kOutputs = 8;
  static constexpr int kHalves = 2;
  static constexpr int kRowTile = 6;
  static constexpr int kOneRowSets = 1;
  static constexpr bool kWholeK = false;
  static constexpr int RegsFor(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : 2; }
  static V Zero() { return _mm256_setzero_si256(); }
  template <int kHalf>
  static V Weights(const uint8_t* w) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
    return kHalf == 0 ? _mm256_and_si256(bytes, _mm256_set1_epi32(0x00ff00ff)) : _mm256_srli_epi16(bytes, 8);
  }
  template <int kHalf>
  static V Broadcast(const int16_t* x) {
    int32_t two;
    __builtin_memcpy(&two, x + 2 * kHalf, sizeof(two));
    return _mm256_set1_epi32(two);
  }
  // The addition is written as an instruction in place: compilers compute many products before the first addition, and then spill sums,
  // or copy every second one.
  template <int kRows>
  static V Dot(V sums, V w, V x) {
    const V products = _mm256_madd_epi16(w, x);
    __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sums) : "x"(products));
    return sums;
  }
  static void ArrangeGroups(int16_t* q, int64_t groups) { EvenThenOdd(q, groups); }
  static V Add(V a, V b) { return _mm256_add_epi32(a, b); }
  static V LoadSums(const int32_t* sums) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums)); }
  static void StoreSums(int32_t* sums, V v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), v); }
};

// vpshufb control: byte j of each lane of 32 bits goes into the lowest byte of that lane, the other bytes become zero.
TFCOMPRESS_INLINE __m256i SpreadControl(int j) {
  const __m256i first_bytes = _mm256_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12);
  return _mm256_or_si256(_mm256_set1_epi32(static_cast<int>(0x80808000u) | j), first_bytes);
}

struct Float {
  using V = __m256;
  using Raw = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kRowTile = 6;
  static constexpr int kRegs = 2;
  static constexpr int kDirectRows = 4;
  static constexpr int DirectRegsFor(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : 2; }
  static V Zero() { return _mm256_setzero_ps(); }
  static V Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, V v) { _mm256_storeu_ps(p, v); }
  static V Broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static V Fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static Raw LoadRaw(const uint8_t* w) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)); }
  // A byte in the low mantissa bits of 2^23 is the float 2^23 + byte: an exact subtraction leaves byte - 128.
  template <int kIndex>
  static V Decode(Raw raw) {
    const __m256i byte = _mm256_shuffle_epi8(raw, SpreadControl(kIndex));
    const __m256i bits = _mm256_or_si256(byte, _mm256_set1_epi32(0x4b000000));
    return _mm256_sub_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(8388608.0f + kZeroPoint));
  }
};

}  // namespace

const Kernels& Avx2Kernels() {
  static constexpr Kernels kernels = {"vpmaddwd + vpaddd, 6x16 tile", "decode to float + vfmadd231ps, 6x16 tile", 8, 24.0, 12.0,
                                      QuantizeRows<Integer>, MultiplyInteger<Integer>,          MultiplyFloat<Float>};
  return kernels;
}

}  // namespace tfcompress::int8
