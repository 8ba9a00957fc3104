// What the peak loops of both AArch64 tiers share.
#ifndef TFCOMPRESS_PYTHON_PEAKS_NEON_INL_H_
#define TFCOMPRESS_PYTHON_PEAKS_NEON_INL_H_

#include "base/arm_intrinsics.h"
#include "python/peaks-inl.h"

namespace tfcompress {
namespace {

struct NeonBase {
  using F = float32x4_t;
  using I = uint8x16_t;
  static constexpr int kFloatOps = 8, kIntOps = 32, kBytes = 16;
  static F FloatZero() { return vdupq_n_f32(0.0f); }
  static I IntZero() { return vdupq_n_u8(0); }
  static F Fma(F sum, F a) { return vfmaq_f32(sum, a, a); }
  // As the kernels count: bytes that later become wider sums.
  static I Count(I sum, I a) { return vaddq_u8(sum, vcntq_u8(veorq_u8(a, vdupq_n_u8(5)))); }
  static I OrBytes(I sum, const char* p) { return vorrq_u8(sum, vld1q_u8(reinterpret_cast<const uint8_t*>(p))); }
  template <typename T>
  static void Keep(T& v) {
    TFCOMPRESS_KEEP_ORDER(v);
  }
};

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_PYTHON_PEAKS_NEON_INL_H_
