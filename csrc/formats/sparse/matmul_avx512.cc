// AVX-512 without byte look-ups: int8 activations are looked up as floats, by gathers where there are few rows.
#include "base/x86_intrinsics.h"
#include "formats/sparse/matmul_avx512-inl.h"

namespace tfcompress::sparse {
namespace {

template <int kReach>
struct Int8Rows {
  static constexpr Values kValues = Values::kInt8;
  using XElement = float;
  using Sum = float;
  using Acc = __m512;
  struct Step {
    __m512i indices, values;
  };
  static constexpr int kRowTile = 4;
  static constexpr bool kInterleaved = false;
  static Acc Zero() { return _mm512_setzero_ps(); }
  static Acc Add(Acc a, Acc b) { return _mm512_add_ps(a, b); }
  static void Store(float* to, Acc a) { _mm512_storeu_ps(to, a); }
  static Step LoadStep(const uint8_t* indices, const char* values) { return {_mm512_loadu_si512(indices), _mm512_loadu_si512(values)}; }
  template <int kEntry>
  static Acc AccumulateEntry(Acc sum, const Step& step, const float* x) {
    const __m512i index = _mm512_and_si512(_mm512_srli_epi32(step.indices, 8 * kEntry), _mm512_set1_epi32(kReach - 1));
    const __m512i value = _mm512_srai_epi32(_mm512_slli_epi32(step.values, 24 - 8 * kEntry), 24);
    return _mm512_fmadd_ps(_mm512_i32gather_ps(index, x, 4), _mm512_cvtepi32_ps(value), sum);
  }
  static Acc Accumulate(Acc sum, const Step& step, const float* x, int64_t) {
    sum = AccumulateEntry<0>(sum, step, x);
    sum = AccumulateEntry<1>(sum, step, x);
    sum = AccumulateEntry<2>(sum, step, x);
    return AccumulateEntry<3>(sum, step, x);
  }
};

}  // namespace

const Kernels& Avx512Kernels() {
  static constexpr Kernels kernels = {
      {"vpermi2ps + vfmadd231ps", "vpermi2ps + vfmadd231ps", "vgatherdps + vfmadd231ps"},
      "vfmadd231ps over 32 rows of x",
      {MultiplyRows<FloatRows<Values::kFloat32>>, MultiplyRows<FloatRows<Values::kBFloat16>>, MultiplyInt8Rows<Int8Rows<64>, Int8Rows<128>>},
      {MultiplyColumns<Columns, Values::kFloat32>, MultiplyColumns<Columns, Values::kBFloat16>, MultiplyColumns<Columns, Values::kInt8>},
      {4, 4, 4},
      {2.5, 2.5, 70.0},
      {22.0, 24.0, 100.0}};
  return kernels;
}

}  // namespace tfcompress::sparse
