// AVX-512: tiles of 6 rows by 64 columns: 24 sums, 4 operands.
#include "base/attention-inl.h"
#include "base/x86_intrinsics.h"

namespace tfcompress {
namespace {

struct Floats {
  using V = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kRegs = 4;
  static V Zero() { return _mm512_setzero_ps(); }
  static V Load(const float* p) { return _mm512_loadu_ps(p); }
  static V Broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static V Fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static void Store(float* p, V v) { _mm512_storeu_ps(p, v); }
};

}  // namespace

const AttentionKernel kAttentionAvx512 = {AttentionScratchHere<Floats>, AttentionHere<Floats>};

}  // namespace tfcompress
