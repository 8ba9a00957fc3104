// The weight-only primitives that both AVX-512 tiers share.
#ifndef TFCOMPRESS_FORMATS_INT8_MATMUL_AVX512_INL_H_
#define TFCOMPRESS_FORMATS_INT8_MATMUL_AVX512_INL_H_

#include "formats/int8/matmul-inl.h"

namespace tfcompress::int8 {
namespace {

// 32 registers: tiles of 12 rows x 32 outputs hold 24 sums and 2 weights; the activation is a broadcast memory operand.
struct Float {
  using V = __m512;
  using Raw = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kRowTile = 12;
  static constexpr int kRegs = 2;
  static constexpr int kDirectRows = 4;
  static constexpr int DirectRegsFor(int) { return 4; }
  static V Zero() { return _mm512_setzero_ps(); }
  static V Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, V v) { _mm512_storeu_ps(p, v); }
  static V Broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static V Fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static Raw LoadRaw(const uint8_t* w) { return _mm512_loadu_si512(w); }
  // A byte in the low mantissa bits of 2^23 is the float 2^23 + byte: an exact subtraction leaves byte - 128. The masked shuffle puts
  // byte j of each lane there and keeps the other bytes of 2^23.
  template <int kIndex>
  static V Decode(Raw raw) {
    const __m512i first_bytes = _mm512_broadcast_i32x4(_mm_setr_epi32(kIndex, kIndex + 4, kIndex + 8, kIndex + 12));
    const __m512i bits = _mm512_mask_shuffle_epi8(_mm512_set1_epi32(0x4b000000), 0x1111111111111111u, raw, first_bytes);
    return _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(8388608.0f + kZeroPoint));
  }
};

}  // namespace
}  // namespace tfcompress::int8

#endif  // TFCOMPRESS_FORMATS_INT8_MATMUL_AVX512_INL_H_
