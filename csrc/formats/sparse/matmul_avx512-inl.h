// The primitives that all AVX-512 tiers share: float32 and bfloat16 values by vpermi2ps, and columns of 16.
#ifndef TFCOMPRESS_FORMATS_SPARSE_MATMUL_AVX512_INL_H_
#define TFCOMPRESS_FORMATS_SPARSE_MATMUL_AVX512_INL_H_

#include "formats/sparse/matmul-inl.h"

namespace tfcompress::sparse {
namespace {

TFCOMPRESS_INLINE __m512i Load16Bytes(const void* bytes) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(bytes)));
}

// A window is 64 floats, four registers: two look-ups of two registers each, of which bit 5 of the index picks one.
struct FloatEntry {
  __m512i indices;
  __m512 values;
  __mmask16 upper;
};

TFCOMPRESS_INLINE FloatEntry MakeEntry(__m512i indices, __m512 values) {
  return {indices, values, _mm512_test_epi32_mask(indices, _mm512_set1_epi32(32))};
}

TFCOMPRESS_INLINE __m512 LookUpAndMultiply(__m512 sum, const FloatEntry& entry, __m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 low = _mm512_permutex2var_ps(a, entry.indices, b);
  const __m512 high = _mm512_permutex2var_ps(c, entry.indices, d);
  return _mm512_fmadd_ps(_mm512_mask_blend_ps(entry.upper, low, high), entry.values, sum);
}

TFCOMPRESS_INLINE __m512 LookUpAndMultiply(__m512 sum, const FloatEntry& entry, const float* x, int64_t piece) {
  return LookUpAndMultiply(sum, entry, _mm512_loadu_ps(x), _mm512_loadu_ps(x + piece), _mm512_loadu_ps(x + 2 * piece),
                           _mm512_loadu_ps(x + 3 * piece));
}

struct Floats512 {
  using XElement = float;
  using Sum = float;
  using Acc = __m512;
  static constexpr int kMostSets = 4;
  static constexpr bool kInterleaved = true;
  static Acc Zero() { return _mm512_setzero_ps(); }
  static Acc Add(Acc a, Acc b) { return _mm512_add_ps(a, b); }
};

struct Float32Rows : Floats512 {
  static constexpr Values kValues = Values::kFloat32;
  using Step = FloatEntry;
  static Step LoadStep(const uint8_t* indices, const char* values) { return MakeEntry(Load16Bytes(indices), _mm512_loadu_ps(values)); }
  static constexpr int kRowTile = 5;  // 20 registers of windows
  static constexpr int kHoldsFrom = 3;
  static constexpr int kPieces = 4;
  using Piece = __m512;
  static Piece LoadPiece(const float* x) { return _mm512_loadu_ps(x); }
  static Acc Accumulate(Acc sum, const Step& step, Piece a, Piece b, Piece c, Piece d) { return LookUpAndMultiply(sum, step, a, b, c, d); }
  static Acc Accumulate(Acc sum, const Step& step, const float* x, int64_t piece) { return LookUpAndMultiply(sum, step, x, piece); }
};

// bfloat16 values are the upper halves of floats. A lane holds two indices and two values.
struct BFloat16Rows : Floats512 {
  static constexpr Values kValues = Values::kBFloat16;
  static constexpr int kRowTile = 8;
  static constexpr int kHoldsFrom = kHoldsNone;  // its windows are two pieces apart
  struct Step {
    FloatEntry first, second;
  };
  static Step LoadStep(const uint8_t* indices, const char* values) {
    const __m512i pairs = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices)));
    const __m512i halves = _mm512_loadu_si512(values);
    const __m512i low_byte = _mm512_set1_epi32(0xff), upper_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {MakeEntry(_mm512_and_si512(pairs, low_byte), _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16))),
            MakeEntry(_mm512_srli_epi32(pairs, 8), _mm512_castsi512_ps(_mm512_and_si512(halves, upper_half)))};
  }
  static Acc Accumulate(Acc sum, const Step& step, const float* x, int64_t piece) {
    return LookUpAndMultiply(LookUpAndMultiply(sum, step.first, x, piece), step.second, x, piece);
  }
};

// Eight float weights, spread from one register.
template <Values kStored>
struct SpreadWeights {
  explicit SpreadWeights(const char* from) {
    if constexpr (kStored == Values::kFloat32) {
      values = _mm512_castps256_ps512(_mm256_loadu_ps(reinterpret_cast<const float*>(from)));
    } else {
      const __m256i halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      values = _mm512_castps256_ps512(_mm256_castsi256_ps(_mm256_slli_epi32(halves, 16)));
    }
  }
  template <int kEntry>
  TFCOMPRESS_INLINE __m512 Get() const {
    return _mm512_permutexvar_ps(_mm512_set1_epi32(kEntry), values);
  }
  __m512 values;
};

struct Columns {
  using V = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kChains = 16;
  template <Values kStored, int kCount>
  using Weights = std::conditional_t<kStored != Values::kInt8 && kCount == 8, SpreadWeights<kStored>, WeightsInMemory<Columns, kStored>>;
  static V Zero() { return _mm512_setzero_ps(); }
  static V Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, V v) { _mm512_storeu_ps(p, v); }
  static V BroadcastAt(const float* p) { return _mm512_set1_ps(*p); }
  static V BroadcastBFloat16At(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_set1_epi16(static_cast<int16_t>(*p)), 16));
  }
  static V Fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static void AddToInts(int32_t* to, V v) {
    _mm512_storeu_si512(to, _mm512_add_epi32(_mm512_loadu_si512(to), _mm512_cvtps_epi32(v)));
  }
  static void Transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    __m512 a[16], b[16];
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(from + i * from_stride);
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 16; i += 4) {
      a[i] = Unpack64<0x44>(b[i], b[i + 2]);
      a[i + 1] = Unpack64<0xee>(b[i], b[i + 2]);
      a[i + 2] = Unpack64<0x44>(b[i + 1], b[i + 3]);
      a[i + 3] = Unpack64<0xee>(b[i + 1], b[i + 3]);
    }
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 4; ++i) {
      b[i] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
      b[i + 4] = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
      b[i + 8] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
      b[i + 12] = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    }
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 4; ++i) {
      _mm512_storeu_ps(to + i * to_stride, _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88));
      _mm512_storeu_ps(to + (i + 4) * to_stride, _mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0x88));
      _mm512_storeu_ps(to + (i + 8) * to_stride, _mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd));
      _mm512_storeu_ps(to + (i + 12) * to_stride, _mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0xdd));
    }
  }

 private:
  template <int kControl>
  static __m512 Unpack64(__m512 a, __m512 b) {
    return _mm512_shuffle_ps(a, b, kControl);
  }
};

}  // namespace
}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_FORMATS_SPARSE_MATMUL_AVX512_INL_H_
