// AVX2 + FMA: bits are counted by tables of nibbles (vpshufb), levels multiplied by vpmaddubsw into 16-bit sums, which levels of at most 3 cannot
// saturate, and tables of 16 floats are two registers.
#include "base/x86_intrinsics.h"
#include "formats/binary/matmul-inl.h"

namespace tfcompress::binary {
namespace {

struct Words {
  using V = __m256i;
  static constexpr int kOutputs = 8;
  static V Zero() { return _mm256_setzero_si256(); }
  static V Load(const uint8_t* w) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)); }
  static V Add(V a, V b) { return _mm256_add_epi32(a, b); }
  static void Store(int32_t* sums, V v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), v); }
};

// 16 registers: tiles of 4 rows x 16 outputs hold 8 sums, 2 words, 1 broadcast, a table and a mask.
struct Signs : Words {
  static constexpr int kRowTile = 4;
  static constexpr int64_t kPartialSteps = 31;  // a byte counts up to 8 bits a step
  static constexpr int RegsFor(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : 2; }
  static uint32_t Words32(const float* x, uint32_t* nans) {
    uint32_t word = 0;
    for (int i = 0; i < 32; i += 8) {
      const __m256 v = _mm256_loadu_ps(x + i);
      *nans |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
      word |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NLT_UQ))) << i;
    }
    return word;
  }
  static uint32_t AtLeast16(const int32_t* a, const int32_t* b) {
    uint32_t less = 0;
    for (int i = 0; i < 16; i += 8) {
      const V v = _mm256_cmpgt_epi32(Load(reinterpret_cast<const uint8_t*>(b + i)), Load(reinterpret_cast<const uint8_t*>(a + i)));
      less |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(v))) << i;
    }
    return ~less & 0xffffu;
  }
  static V Broadcast(uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }
  static V And(V a, V b) { return _mm256_and_si256(a, b); }
  static V Count(V sums, V w, V x) {
    const V nibbles = _mm256_set1_epi8(15);
    const V counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const V bits = _mm256_xor_si256(w, x);
    const V low = _mm256_shuffle_epi8(counts, _mm256_and_si256(bits, nibbles));
    const V high = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi32(bits, 4), nibbles));
    sums = _mm256_add_epi8(sums, _mm256_add_epi8(low, high));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static V AddPartial(V sums, V partial) {
    const V pairs = _mm256_maddubs_epi16(partial, _mm256_set1_epi8(1));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

// Levels are 0 ... 3: a step adds at most 2 * 3 * 127 = 762 to a 16-bit sum, 5 words (binary 8 steps each, of at most 254) 10,160 or (ternary 4
// steps) 15,240.
struct Bytes : Words {
  static constexpr int kRowTile = 4;
  static constexpr int kOneRowSets = 1;
  static constexpr int64_t kPartialWords = 5;
  static_assert(kPartialWords * 4 * 762 < 32768 && kPartialWords * 8 * 254 < 32768, "16-bit sums must not saturate");
  static constexpr int RegsFor(int rows) { return rows == 1 ? 4 : 2; }
  template <int kBits, int kField>
  static V Field(V words) {
    const V mask = _mm256_set1_epi8((1 << kBits) - 1);
    return _mm256_and_si256(kField == 0 ? words : _mm256_srli_epi32(words, kField * kBits), mask);
  }
  static V Broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm256_set1_epi32(four);
  }
  static V Dot(V sums, V levels, V x) {
    sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(levels, x));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static V AddPartial(V sums, V partial) { return _mm256_add_epi32(sums, _mm256_madd_epi16(partial, _mm256_set1_epi16(1))); }
};

struct Tables : Words {
  using F = __m256;
  struct Index {
    __m256i low;    // the three lowest bits name an entry of a half
    __m256 half;    // the sign bit names the half
  };
  static constexpr int kRowTile = 4;
  static constexpr int kOneRowSets = 1;
  static constexpr int RegsFor(int rows) { return rows == 1 ? 4 : 2; }
  static F Zero() { return _mm256_setzero_ps(); }
  template <int kGroup>
  static Index Group(V words) {
    return {_mm256_srli_epi32(words, 4 * kGroup), _mm256_castsi256_ps(_mm256_slli_epi32(words, 28 - 4 * kGroup))};
  }
  static F AddEntries(F sums, const Index& index, const float* table) {
    const F low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index.low);
    const F high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index.low);
    sums = _mm256_add_ps(sums, _mm256_blendv_ps(low, high, index.half));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static void Store(float* sums, F v) { _mm256_storeu_ps(sums, v); }
};

}  // namespace

const Kernels& Avx2Kernels() {
  static constexpr Kernels kernels = MakeKernels<Signs, Bytes, Tables>("2 vpermps + vblendvps + vaddps, 4x16 tile",
                                                                       "vpmaddubsw on levels + vpaddw, 4x16 tile",
                                                                       "vpxor + 2 vpshufb + vpaddb, 4x16 tile", 16.0, 32.0, 120.0);
  return kernels;
}

}  // namespace tfcompress::binary
