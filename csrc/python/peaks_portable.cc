#include <cstdint>

#include "python/peaks-inl.h"

namespace tfcompress {
namespace {

struct P {
  using F = float;
  using I = int64_t;
  static constexpr int kFloatOps = 2, kIntOps = 2, kBytes = 8;
  static F FloatZero() { return 0; }
  static I IntZero() { return 0; }
  static F Fma(F sum, F a) { return sum + a * a; }
  static I Dot(I sum, I a) { return sum + a * a; }
  static I Count(I sum, I a) { return sum + __builtin_popcountll(static_cast<unsigned long long>(a ^ 5)); }
  static I OrBytes(I sum, const char* p) {
    I v;
    __builtin_memcpy(&v, p, sizeof(v));
    return sum | v;
  }
  template <typename T>
  static void Keep(T& v) {
    __asm__ volatile("" : "+m"(v));
  }
};

}  // namespace

const PeakLoops& PortablePeakLoops() {
  static constexpr PeakLoops loops = {FloatLoop<P>, IntLoop<P>, BinaryLoop<P>, ReadLoop<P>};
  return loops;
}

}  // namespace tfcompress
