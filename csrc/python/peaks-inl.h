// The loops behind measure_peaks. An instruction-set file supplies P:
//   kFloatOps, kIntOps     operations of one Fma / Dot
//   F, I                   registers; FloatZero, Fma(F sum, F a), IntZero, Dot(I sum, I a), OrBytes(I sum, const char*), kBytes
//   Keep(F), Keep(I)       makes the compiler believe that a register is used and changed
#ifndef TFCOMPRESS_PYTHON_PEAKS_INL_H_
#define TFCOMPRESS_PYTHON_PEAKS_INL_H_

#include "python/peaks.h"

namespace tfcompress {
namespace {

constexpr int kChains = 12;  // independent sums: latency 4-5 times two pipes, and three to spare

template <class P>
double FloatLoop(long iterations) {
  typename P::F sums[kChains], a = P::FloatZero();
  for (auto& s : sums) s = P::FloatZero();
  P::Keep(a);
  for (long i = 0; i < iterations; ++i) {
    _Pragma("GCC unroll 16") for (int c = 0; c < kChains; ++c) {
      sums[c] = P::Fma(sums[c], a);
      P::Keep(sums[c]);
    }
  }
  return static_cast<double>(iterations) * kChains * P::kFloatOps;
}

template <class P>
double IntLoop(long iterations) {
  typename P::I sums[kChains], a = P::IntZero();
  for (auto& s : sums) s = P::IntZero();
  P::Keep(a);
  for (long i = 0; i < iterations; ++i) {
    _Pragma("GCC unroll 16") for (int c = 0; c < kChains; ++c) {
      sums[c] = P::Dot(sums[c], a);
      P::Keep(sums[c]);
    }
  }
  return static_cast<double>(iterations) * kChains * P::kIntOps;
}

template <class P>
double ReadLoop(const char* bytes, long count, long iterations) {
  typename P::I sums[8];
  for (auto& s : sums) s = P::IntZero();
  for (long i = 0; i < iterations; ++i) {
    for (long b = 0; b + 8 * P::kBytes <= count; b += 8 * P::kBytes) {
      _Pragma("GCC unroll 8") for (int c = 0; c < 8; ++c) sums[c] = P::OrBytes(sums[c], bytes + b + c * P::kBytes);
    }
    for (auto& s : sums) P::Keep(s);
  }
  return static_cast<double>(iterations) * static_cast<double>(count);
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_PYTHON_PEAKS_INL_H_
