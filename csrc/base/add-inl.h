// The body of every sum: plain loops, which the including instruction-set file has vectorised. Everything has internal linkage: see
// base/elementwise-inl.h.
#ifndef TFCOMPRESS_BASE_ADD_INL_H_
#define TFCOMPRESS_BASE_ADD_INL_H_

#include "base/add.h"
#include "base/elementwise-inl.h"

namespace tfcompress {
namespace {

// Numbers that are added, activated and converted before the next ones: they stay in L1 between.
constexpr int64_t kAddChunk = 512;

// What residual networks do: two terms of float32, and relu or nothing.
template <bool kRelu>
TFCOMPRESS_INLINE void AddTwo(const AddArgs& args, int64_t begin, int64_t n) {
  const float* a = static_cast<const float*>(args.x[0]) + begin;
  const float* b = static_cast<const float*>(args.x[1]) + begin;
  float* y = static_cast<float*>(args.y) + begin;
#pragma GCC ivdep  // y may be a or b
  for (int64_t i = 0; i < n; ++i) {
    const float sum = a[i] + b[i];
    y[i] = kRelu && sum < 0.0f ? 0.0f : sum;
  }
}

TFCOMPRESS_INLINE void AddChunk(const AddArgs& args, int64_t begin, int64_t n) {
  const int64_t bytes = ElementBytes(args.type);
  const auto term = [&](int64_t t) { return static_cast<const char*>(args.x[t]) + begin * bytes; };
  float sums[kAddChunk], values[kAddChunk];
  LoadAsFloat(term(0), args.type, sums, n);
  for (int64_t t = 1; t < args.terms; ++t) {
    LoadAsFloat(term(t), args.type, values, n);
    for (int64_t i = 0; i < n; ++i) sums[i] += values[i];
  }
  ApplyActivation(args.activation, sums, n);
  StoreFromFloat(sums, static_cast<char*>(args.y) + begin * bytes, args.type, n);
}

void AddRangeHere(const AddArgs& args, int64_t begin, int64_t end) {
  if (args.type == ElementType::kFloat32 && args.terms == 2) {
    if (args.activation == Activation::kRelu) return AddTwo<true>(args, begin, end - begin);
    if (args.activation == Activation::kLinear) return AddTwo<false>(args, begin, end - begin);
  }
  for (; begin < end; begin += kAddChunk) AddChunk(args, begin, Min(kAddChunk, end - begin));
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_ADD_INL_H_
