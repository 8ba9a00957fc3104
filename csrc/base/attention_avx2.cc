// AVX2 + FMA: tiles of 6 rows by 16 columns: 12 sums, 2 operands, a broadcast.
#include "base/attention-inl.h"
#include "base/x86_intrinsics.h"

namespace tfcompress {
namespace {

struct Floats {
  using V = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kRegs = 2;
  static V Zero() { return _mm256_setzero_ps(); }
  static V Load(const float* p) { return _mm256_loadu_ps(p); }
  static V Broadcast(const float* p) { return _mm256_set1_ps(*p); }
  static V Fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static void Store(float* p, V v) { _mm256_storeu_ps(p, v); }
};

}  // namespace

const AttentionKernel kAttentionAvx2 = {AttentionScratchHere<Floats>, AttentionHere<Floats>};

}  // namespace tfcompress
