// The loops behind measure_peaks. An instruction-set file supplies P:
//   kFloatOps, kIntOps     operations of one Fma / Dot
//   F, I                   registers; FloatZero, Fma(F sum, F a), IntZero, Dot(I sum, I a), Count(I sum, I a), OrBytes(I sum, const char*), kBytes
//   Keep(F), Keep(I)       makes the compiler believe that a register is used and changed
#ifndef TFCOMPRESS_PYTHON_PEAKS_INL_H_
#define TFCOMPRESS_PYTHON_PEAKS_INL_H_

#include "base/types.h"
#include "python/peaks.h"

namespace tfcompress {
namespace {

constexpr int kChains = 12;  // independent sums: a latency of 4 to 5 times two pipes, and some to spare; 16 registers hold them

// Rounds of kChains times sum = Step(sum, operand), all in registers.
template <class P, typename Register, Register (*kStep)(Register, Register)>
double ChainLoop(Register zero, long iterations, int operations) {
  Register sums[kChains];
  TFCOMPRESS_UNROLL
  for (int c = 0; c < kChains; ++c) sums[c] = zero;
  for (long i = 0; i < iterations; ++i) {
    TFCOMPRESS_UNROLL
    for (int c = 0; c < kChains; ++c) {
      P::Keep(zero);  // so that no part of a step is computed before the loop
      sums[c] = kStep(sums[c], zero);
      P::Keep(sums[c]);
    }
  }
  return static_cast<double>(iterations) * kChains * operations;
}

template <class P>
double FloatLoop(long iterations) {
  return ChainLoop<P, typename P::F, P::Fma>(P::FloatZero(), iterations, P::kFloatOps);
}

template <class P>
double IntLoop(long iterations) {
  return ChainLoop<P, typename P::I, P::Dot>(P::IntZero(), iterations, P::kIntOps);
}

template <class P>
double BinaryLoop(long iterations) {
  return ChainLoop<P, typename P::I, P::Count>(P::IntZero(), iterations, 2 * 8 * P::kBytes);
}

template <class P>
double ReadLoop(const char* bytes, long count, long iterations) {
  constexpr int kLoads = 8;
  typename P::I sums[kLoads];
  TFCOMPRESS_UNROLL
  for (int c = 0; c < kLoads; ++c) sums[c] = P::IntZero();
  for (long i = 0; i < iterations; ++i) {
    for (long b = 0; b + kLoads * P::kBytes <= count; b += kLoads * P::kBytes) {
      TFCOMPRESS_UNROLL
      for (int c = 0; c < kLoads; ++c) {
        sums[c] = P::OrBytes(sums[c], bytes + b + c * P::kBytes);
        P::Keep(sums[c]);
      }
    }
  }
  return static_cast<double>(iterations) * static_cast<double>(count);
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_PYTHON_PEAKS_INL_H_
