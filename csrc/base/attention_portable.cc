// Any CPU: registers of 128 bits, which the baselines of x86-64 and AArch64 have.
#include "base/attention-inl.h"

namespace tfcompress {
namespace {

struct Floats {
  typedef float V __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kRegs = 2;
  static V Zero() { return V{}; }
  static V Load(const float* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  }
  static V Broadcast(const float* p) { return V{*p, *p, *p, *p}; }
  static V Fma(V a, V b, V c) { return a * b + c; }  // rounded in between
  static void Store(float* p, V v) { __builtin_memcpy(p, &v, sizeof(v)); }
};

}  // namespace

const AttentionKernel kAttentionPortable = {AttentionScratchHere<Floats>, AttentionHere<Floats>};

}  // namespace tfcompress
