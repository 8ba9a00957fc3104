// Rows of a table of int8 numbers: y[i, :] = scale[r] * rows[r, :] (+ mean[r]), where r = indices[i].
//
// A table (an embedding) is looked up and never multiplied by, so that it is not packed as the matrices of int8.h are, where a column's bytes lie 256
// apart: a row's bytes lie side by side, row r from byte r * k on. No byte can do harm; indices are checked as they are read.
#ifndef TFCOMPRESS_FORMATS_INT8_LOOKUP_H_
#define TFCOMPRESS_FORMATS_INT8_LOOKUP_H_

#include <cstdint>

#include "base/cpu.h"
#include "base/parallel.h"
#include "base/types.h"

namespace tfcompress::int8 {

struct LookupArgs {
  int64_t count = 0;              // indices
  int64_t n = 0, k = 0;           // rows of the table, numbers of a row
  const void* indices = nullptr;  // [count]
  bool wide = false;              // int64, else int32
  const int8_t* rows = nullptr;   // [n, k]
  const float* scale = nullptr;   // [n]
  const float* mean = nullptr;    // [n] or null
  void* y = nullptr;              // [count, k]
  ElementType y_type = ElementType::kFloat32;
};

// The i-th index.
TFCOMPRESS_INLINE int64_t IndexAt(const LookupArgs& args, int64_t i) {
  return args.wide ? static_cast<const int64_t*>(args.indices)[i] : static_cast<const int32_t*>(args.indices)[i];
}

// Returns count, or the first i whose index is not in 0 ... n - 1: what y holds is then unspecified.
int64_t LookUp(const LookupArgs& args, ThreadPool* pool);

// One tier's, alone: indices begin ... end - 1. Returns end, or the first i whose index is out of range.
using LookUpRows = int64_t(const LookupArgs& args, int64_t begin, int64_t end);
LookUpRows LookUpRowsPortable;
#ifdef TFCOMPRESS_HAVE_X86_TIERS
LookUpRows LookUpRowsAvx2;
LookUpRows LookUpRowsAvx512;
#endif

// A tier's, or that of the best one below it that was built for this machine.
LookUpRows& LookUpRowsFor(Tier tier);

}  // namespace tfcompress::int8

#endif  // TFCOMPRESS_FORMATS_INT8_LOOKUP_H_
