// AVX2 + FMA: where there are few rows, float activations are gathered and int8 ones looked up 16 at a time.
#include "base/x86_intrinsics.h"
#include "formats/sparse/int8_rows_avx2-inl.h"
#include "formats/sparse/matmul-inl.h"

namespace tfcompress::sparse {
namespace {

struct Pair {
  __m256 low, high;  // lanes 0-7 and 8-15
};

template <Values kStored>
struct FloatRows {
  static constexpr Values kValues = kStored;
  using XElement = float;
  using Sum = float;
  using Acc = Pair;
  struct Step {
    const uint8_t* indices;
    const char* values;
  };
  static constexpr int kRowTile = 4;
  static constexpr int kMostSets = 4;
  static constexpr bool kInterleaved = false;
  static constexpr int kHoldsFrom = kHoldsNone;
  static Acc Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Acc Add(Acc a, Acc b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Step LoadStep(const uint8_t* indices, const char* values) { return {indices, values}; }
  static __m256 Gather(const float* x, __m256i index) {
    return _mm256_i32gather_ps(x, _mm256_and_si256(index, _mm256_set1_epi32(63)), 4);
  }
  static __m256 Half(__m256 sum, const Step& step, int lane, const float* x) {
    if constexpr (kStored == Values::kFloat32) {
      const __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(step.indices + lane)));
      return _mm256_fmadd_ps(Gather(x, index), _mm256_loadu_ps(reinterpret_cast<const float*>(step.values) + lane), sum);
    } else {  // two entries a lane; bfloat16 values are the upper halves of floats
      const __m256i indices = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(step.indices + 2 * lane)));
      const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(step.values + 4 * lane));
      const __m256i upper_half = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
      sum = _mm256_fmadd_ps(Gather(x, indices), _mm256_castsi256_ps(_mm256_slli_epi32(halves, 16)), sum);
      return _mm256_fmadd_ps(Gather(x, _mm256_srli_epi32(indices, 8)), _mm256_castsi256_ps(_mm256_and_si256(halves, upper_half)), sum);
    }
  }
  static Acc Accumulate(Acc sum, const Step& step, const float* x, int64_t) {
    return {Half(sum.low, step, 0, x), Half(sum.high, step, 8, x)};
  }
};

struct Columns {
  using V = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kChains = 8;
  template <Values kStored, int>
  using Weights = WeightsInMemory<Columns, kStored>;
  static V Zero() { return _mm256_setzero_ps(); }
  static V Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, V v) { _mm256_storeu_ps(p, v); }
  static V BroadcastAt(const float* p) { return _mm256_broadcast_ss(p); }
  static V BroadcastBFloat16At(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_set1_epi16(static_cast<int16_t>(*p)), 16));
  }
  static V Fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static void AddToInts(int32_t* to, V v) {
    __m256i* p = reinterpret_cast<__m256i*>(to);
    _mm256_storeu_si256(p, _mm256_add_epi32(_mm256_loadu_si256(p), _mm256_cvtps_epi32(v)));
  }
  static void Transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    __m256 a[8], b[8];
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(from + i * from_stride);
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
      a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
      a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
      a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    TFCOMPRESS_UNROLL
    for (int i = 0; i < 4; ++i) {
      _mm256_storeu_ps(to + i * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
      _mm256_storeu_ps(to + (i + 4) * to_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
  }
};

}  // namespace

const Kernels& Avx2Kernels() {
  static constexpr Kernels kernels = {
      InspectStructure,
      {"vgatherdps + vfmadd231ps", "vgatherdps + vfmadd231ps", "vpshufb + vpmaddubsw"},
      "vfmadd231ps over 32 rows of x",
      {MultiplyRows<FloatRows<Values::kFloat32>>, MultiplyRows<FloatRows<Values::kBFloat16>>,
       MultiplyInt8Rows<ShuffledInt8Rows<64>, ShuffledInt8Rows<128>>},
      {MultiplyColumns<Columns, Values::kFloat32>, MultiplyColumns<Columns, Values::kBFloat16>, MultiplyColumns<Columns, Values::kInt8>},
      {4, 4, 1},
      {18.0, 18.0, 15.0},
      {40.0, 40.0, 160.0}};
  return kernels;
}

}  // namespace tfcompress::sparse
