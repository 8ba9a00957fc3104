// AVX-512 BF16: 32 bfloat16 activations are looked up at a time in two registers (vpermi2w), and vdpbf16ps multiplies them by two weights of
// each output, with float32 sums. The look-ups of int8 are those of VBMI.
#include "base/x86_intrinsics.h"
#include "formats/sparse/int8_rows_avx512vbmi-inl.h"
#include "formats/sparse/matmul_avx512-inl.h"

namespace tfcompress::sparse {
namespace {

struct BFloat16PairRows {
  static constexpr Values kValues = Values::kBFloat16;
  using XElement = uint16_t;
  using Sum = float;
  using Acc = __m512;
  struct Step {
    __m512i indices, values;
  };
  static constexpr int kRowTile = 9;
  static constexpr int kMostSets = 4;
  static constexpr bool kInterleaved = true;
  static Acc Zero() { return _mm512_setzero_ps(); }
  static Acc Add(Acc a, Acc b) { return _mm512_add_ps(a, b); }
  static Step LoadStep(const uint8_t* indices, const char* values) {
    return {_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices))), _mm512_loadu_si512(values)};
  }
  static constexpr int kHoldsFrom = 4;
  static constexpr int kPieces = 2;
  using Piece = __m512i;
  static Piece LoadPiece(const uint16_t* x) { return _mm512_loadu_si512(x); }
  static Acc Accumulate(Acc sum, const Step& step, Piece low, Piece high) {
    const __m512i looked_up = _mm512_permutex2var_epi16(low, step.indices, high);
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(looked_up), reinterpret_cast<__m512bh>(step.values));
  }
  static Acc Accumulate(Acc sum, const Step& step, const uint16_t* x, int64_t piece) {
    return Accumulate(sum, step, LoadPiece(x), LoadPiece(x + piece));
  }
};

}  // namespace

const Kernels& Avx512Bf16Kernels() {
  static constexpr Kernels kernels = {
      InspectStructure,
      {"vpermi2ps + vfmadd231ps", "vpermi2w + vdpbf16ps", "vpermb or vpermi2b + vpdpbusd"},
      "vfmadd231ps over 32 rows of x",
      {MultiplyRows<Float32Rows>, MultiplyRows<BFloat16PairRows>, MultiplyInt8Rows<Int8Rows<64>, Int8Rows<128>>},
      {MultiplyColumns<Columns, Values::kFloat32>, MultiplyColumns<Columns, Values::kBFloat16>, MultiplyColumns<Columns, Values::kInt8>},
      {4, 2, 1},
      {2.0, 1.2, 1.2},
      {36.0, 37.0, 100.0}};
  return kernels;
}

}  // namespace tfcompress::sparse
