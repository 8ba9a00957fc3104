// A sum of tensors and an activation, in one pass over memory:
//
//     y[i] = activation(x[0][i] + x[1][i] + ...)
//
// The end of every residual block. TensorFlow adds in one pass and activates in another, through memory where the tensors are larger than caches.
#ifndef TFCOMPRESS_BASE_ADD_H_
#define TFCOMPRESS_BASE_ADD_H_

#include <cstdint>

#include "base/cpu.h"
#include "base/parallel.h"
#include "base/types.h"

namespace tfcompress {

struct AddArgs {
  int64_t count = 0;  // numbers of a tensor
  int64_t terms = 0;  // tensors, at least one
  ElementType type = ElementType::kFloat32;
  const void* const* x = nullptr;  // [terms] pointers to [count]
  Activation activation = Activation::kLinear;
  void* y = nullptr;  // [count]; may be one of x
};

// float32 sums from the first term to the last: the same bits on every tier, before the activation.
void Add(const AddArgs& args, ThreadPool* pool);

// One tier's, alone: numbers begin ... end - 1.
using AddRange = void(const AddArgs& args, int64_t begin, int64_t end);
AddRange AddRangePortable;
#ifdef TFCOMPRESS_HAVE_X86_TIERS
AddRange AddRangeAvx2;
AddRange AddRangeAvx512;
#endif

// A tier's, or that of the best one below it that was built for this machine.
AddRange& AddRangeFor(Tier tier);

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_ADD_H_
