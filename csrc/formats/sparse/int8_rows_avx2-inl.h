// int8 look-ups of AVX2, for the tiers that have no permutation of bytes across registers: vpshufb looks 16 bytes up; the window's four or
// eight tables are all looked up, and bits 4 to 6 of an index pick one of the results.
#ifndef TFCOMPRESS_FORMATS_SPARSE_INT8_ROWS_AVX2_INL_H_
#define TFCOMPRESS_FORMATS_SPARSE_INT8_ROWS_AVX2_INL_H_

#include "formats/sparse/matmul-inl.h"

namespace tfcompress::sparse {
namespace {

template <int kReach>
struct ShuffledInt8Rows {
  static constexpr Values kValues = Values::kInt8;
  using XElement = int8_t;
  using Sum = int32_t;
  struct Acc {
    __m256i low, high;  // lanes 0-7 and 8-15
  };
  struct Step {
    __m256i indices[2];
    __m256i magnitudes[2];  // |w|, unsigned
    __m256i values[2];
  };
  static constexpr int kRowTile = 4;
  static constexpr int kMostSets = 4;
  static constexpr bool kInterleaved = false;
  static constexpr int kHoldsFrom = kHoldsNone;
  static Acc Zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Acc Add(Acc a, Acc b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
  static __m256i Load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static Step LoadStep(const uint8_t* indices, const char* values) {
    const __m256i low = Load(values), high = Load(values + 32);
    return {{Load(indices), Load(indices + 32)}, {_mm256_abs_epi8(low), _mm256_abs_epi8(high)}, {low, high}};
  }
  // The table at this place of the window, in both halves of a register.
  static __m256i LookUp(const int8_t* table, __m256i indices) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), indices);
  }
  static __m256i LookUp64(const int8_t* x, __m256i indices, __m256i bit4, __m256i bit5) {
    const __m256i first = _mm256_blendv_epi8(LookUp(x, indices), LookUp(x + 16, indices), bit4);
    const __m256i second = _mm256_blendv_epi8(LookUp(x + 32, indices), LookUp(x + 48, indices), bit4);
    return _mm256_blendv_epi8(first, second, bit5);
  }
  static __m256i Half(__m256i sum, const Step& step, int half, const int8_t* x) {
    const __m256i indices = step.indices[half];
    // Each bit that picks, where vpblendvb looks for it: at the top of its byte.
    const __m256i bit4 = _mm256_slli_epi16(indices, 3), bit5 = _mm256_slli_epi16(indices, 2);
    __m256i found = LookUp64(x, indices, bit4, bit5);
    if constexpr (kReach == 128) {
      found = _mm256_blendv_epi8(found, LookUp64(x + 64, indices, bit4, bit5), _mm256_slli_epi16(indices, 1));
    }
    // |w| * (x with the sign of w): two products are at most 2 * 128 * 127 < 2^15, so that vpmaddubsw does not saturate.
    const __m256i pairs = _mm256_maddubs_epi16(step.magnitudes[half], _mm256_sign_epi8(found, step.values[half]));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static Acc Accumulate(Acc sum, const Step& step, const int8_t* x, int64_t) {
    return {Half(sum.low, step, 0, x), Half(sum.high, step, 1, x)};
  }
};

}  // namespace
}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_FORMATS_SPARSE_INT8_ROWS_AVX2_INL_H_
