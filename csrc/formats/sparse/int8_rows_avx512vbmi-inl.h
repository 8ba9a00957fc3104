// int8 look-ups of AVX-512 VBMI and VNNI: 64 int8 activations are looked up at a time, in one register (vpermb) or two (vpermi2b), and
// vpdpbusd multiplies them, as unsigned x_q + 128, by four weights of each output.
#ifndef TFCOMPRESS_FORMATS_SPARSE_INT8_ROWS_AVX512VBMI_INL_H_
#define TFCOMPRESS_FORMATS_SPARSE_INT8_ROWS_AVX512VBMI_INL_H_

#include "formats/sparse/matmul-inl.h"

namespace tfcompress::sparse {
namespace {

template <int kReach>
struct Int8Rows {
  static constexpr Values kValues = Values::kInt8;
  using XElement = uint8_t;
  using Sum = int32_t;
  using Acc = __m512i;
  struct Step {
    __m512i indices, values;
  };
  static constexpr int kRowTile = 9;  // batch 17 is 9 + 8
  static constexpr int kMostSets = 4;
  static constexpr bool kInterleaved = true;
  static Acc Zero() { return _mm512_setzero_si512(); }
  static Acc Add(Acc a, Acc b) { return _mm512_add_epi32(a, b); }
  static Step LoadStep(const uint8_t* indices, const char* values) { return {_mm512_loadu_si512(indices), _mm512_loadu_si512(values)}; }
  static constexpr int kHoldsFrom = 4;
  static constexpr int kPieces = kReach / 64;
  using Piece = __m512i;
  static Piece LoadPiece(const uint8_t* x) { return _mm512_loadu_si512(x); }
  static Acc Accumulate(Acc sum, const Step& step, Piece window) {
    return _mm512_dpbusd_epi32(sum, _mm512_permutexvar_epi8(step.indices, window), step.values);
  }
  static Acc Accumulate(Acc sum, const Step& step, Piece low, Piece high) {
    return _mm512_dpbusd_epi32(sum, _mm512_permutex2var_epi8(low, step.indices, high), step.values);
  }
  static Acc Accumulate(Acc sum, const Step& step, const uint8_t* x, int64_t piece) {
    if constexpr (kPieces == 1) return Accumulate(sum, step, LoadPiece(x));
    return Accumulate(sum, step, LoadPiece(x), LoadPiece(x + piece));
  }
  static Acc WeightSums(Acc sum, const Step& step) { return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), step.values); }
};

}  // namespace
}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_FORMATS_SPARSE_INT8_ROWS_AVX512VBMI_INL_H_
