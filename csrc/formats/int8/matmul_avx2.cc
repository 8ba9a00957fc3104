// AVX2 + FMA. Bytes are widened to int16: vpmaddubsw on bytes would saturate (255 * 127 * 2 > 32,767), vpmaddwd is exact.
// 16 registers: tiles of 6 rows x 8 outputs hold 12 sums, 2 weights, 1 broadcast and 1 product.
#include "base/x86_intrinsics.h"
#include "formats/int8/matmul-inl.h"

namespace tfcompress::int8 {
namespace {

struct Integer {
  using V = __m256i;
  using XElement = int16_t;
  static constexpr int kOutputs = 4;  // two lanes each: k 0-1 and k 2-3 of a group
  static constexpr int kRowTile = 6;
  static constexpr int kOneRowSets = 1;
  static constexpr int RegsFor(int rows) { return rows == 1 ? 8 : rows <= 3 ? 4 : 2; }
  static V Zero() { return _mm256_setzero_si256(); }
  static V LoadWeights(const uint8_t* w) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
  }
  static V Broadcast(const int16_t* x) {
    return _mm256_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x)));
  }
  // The addition is written as an instruction in place: compilers compute many products before the first addition, and then spill sums
  // (6 x 8 tile: 49 instructions, 17 of them on the stack), or copy every second one (43 instructions). This way it is 37.
  template <int kRows>
  static V Dot(V sums, V w, V x) {
    const V products = _mm256_madd_epi16(w, x);
    __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sums) : "x"(products));
    return sums;
  }
  static V Add(V a, V b) { return _mm256_add_epi32(a, b); }
  static void StoreSums(int32_t* sums, V v) {
    const __m256i pairs = _mm256_hadd_epi32(v, v);  // outputs 0 1 0 1 | 2 3 2 3
    const __m256i packed = _mm256_permute4x64_epi64(pairs, 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(sums), _mm256_castsi256_si128(packed));
  }
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
  static constexpr Kernels kernels = {"vpmovzxbw + vpmaddwd + vpaddd, 6x8 tile", "decode to float + vfmadd231ps, 6x16 tile", 8, 24.0, 12.0,
                                      MultiplyInteger<Integer>,          MultiplyFloat<Float>};
  return kernels;
}

}  // namespace tfcompress::int8
