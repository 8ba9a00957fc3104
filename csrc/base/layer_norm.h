// Layer normalisation of every row, in one pass over memory:
//
//     y[r, f] = (x[r, f] - mean(x[r])) / sqrt(variance(x[r]) + epsilon) * gamma[f] + beta[f]
//
// Sums are float32 whatever x is. Format-independent. Keras makes some ten TensorFlow ops of it, each of which reads and writes all rows: 0.4 ms
// for 128 x 768 on two threads, of which the arithmetic takes a twentieth.
#ifndef TFCOMPRESS_BASE_LAYER_NORM_H_
#define TFCOMPRESS_BASE_LAYER_NORM_H_

#include <cstdint>

#include "base/cpu.h"
#include "base/parallel.h"
#include "base/types.h"

namespace tfcompress {

struct LayerNormArgs {
  int64_t rows = 0;
  int64_t features = 0;
  ElementType type = ElementType::kFloat32;  // of x and y
  const void* x = nullptr;                   // [rows, features]
  const float* gamma = nullptr;              // [features], or null: ones
  const float* beta = nullptr;               // [features], or null: zeros
  float epsilon = 0;
  void* y = nullptr;  // [rows, features]; may be x
};

// The same bits on every tier, for any number of threads.
void LayerNorm(const LayerNormArgs& args, ThreadPool* pool);

// One tier's, alone: rows begin ... end - 1.
using LayerNormRows = void(const LayerNormArgs& args, int64_t begin, int64_t end);
LayerNormRows LayerNormRowsPortable;
#ifdef TFCOMPRESS_HAVE_X86_TIERS
LayerNormRows LayerNormRowsAvx2;
LayerNormRows LayerNormRowsAvx512;
#endif

// A tier's, or that of the best one below it that was built for this machine.
LayerNormRows& LayerNormRowsFor(Tier tier);

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_LAYER_NORM_H_
