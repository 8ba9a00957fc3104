// The table that every instruction-set file fills and that matmul.cc picks from.
#ifndef TFCOMPRESS_FORMATS_BINARY_KERNELS_H_
#define TFCOMPRESS_FORMATS_BINARY_KERNELS_H_

#include "base/grid.h"
#include "base/quantize.h"
#include "formats/binary/binary.h"

namespace tfcompress::binary {

// Computes one block. `scratch` is this worker's own, 64-byte aligned, ScratchBytes() large. It remembers the activations that were
// prepared last, so that a worker prepares a row block once for all of its panels.
using Multiply = void (*)(const MatMulArgs& args, const Block& block, void* scratch);

inline constexpr int kNumActivations = 3;
struct Kernels {
  const char* step[kNumActivations];         // for people: the inner step, by Activations
  double macs_per_cycle[kNumActivations];    // multiply-adds per core and cycle that large tiles reach with binary levels; for the planner
  Multiply multiply[kNumLevels][kNumActivations];  // null: binary activations with ternary levels
};

// Rows that a worker prepares at a time. Quantised or binarised rows are small. Tables are 16 bytes for each bit of a weight: few rows of them
// stay in L2 while all panels pass over them.
TFCOMPRESS_INLINE constexpr int64_t MostRows(Activations activations) {
  return activations == Activations::kFloat ? 8 : activations == Activations::kInt8 ? 48 : 96;
}
inline constexpr int64_t kMaxRows = 96;

// Strides of scratch rows in bytes: whole cache lines, one line off the powers of two whose rows would share cache sets.
TFCOMPRESS_INLINE constexpr int64_t RowBytes(const MatMulArgs& args) {
  const int64_t words = NumWords(args.levels, args.k);
  const int64_t bytes = args.activations == Activations::kFloat  ? words * (kWordBits / 4) * 64  // a table for each 4 bits
                        : args.activations == Activations::kInt8 ? words * (kWordBits / BitsOf(args.levels))
                                                                 : words * 4;
  return RoundUp(bytes, 64) + 64;
}

// What is known of a row of prepared activations: the integer sum of an output is factor * its tile's sum + offset, with a factor of the path.
struct PreparedRow {
  float scale;     // of the sum; NaN voids the row
  int32_t offset;  // of the sum
  float sum;       // of the activations, for the mean
};

// Of the last activations that were prepared in a worker's scratch memory, at its beginning. The values follow.
struct ScratchHeader {
  int64_t row_begin = 0, row_end = 0;  // rows that it holds
  PreparedRow rows[kMaxRows];
};
inline constexpr int64_t kHeaderBytes = RoundUp(sizeof(ScratchHeader), 64);

// What a worker needs for blocks of `rows` rows. Its header must be cleared before the first call.
TFCOMPRESS_INLINE constexpr int64_t ScratchBytes(const MatMulArgs& args, int64_t rows) {
  const int64_t most = MostRows(args.activations);
  return kHeaderBytes + (rows < most ? rows : most) * RowBytes(args);
}

const Kernels& PortableKernels();
#ifdef TFCOMPRESS_HAVE_X86_TIERS
const Kernels& Avx2Kernels();
const Kernels& Avx512Kernels();
const Kernels& Avx512VnniKernels();
const Kernels& Avx512VbmiKernels();
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)
const Kernels& NeonKernels();
const Kernels& DotProdKernels();
#endif

// The kernels of a tier, or of the best one below it that was built for this machine.
const Kernels& KernelsFor(Tier tier);

}  // namespace tfcompress::binary

#endif  // TFCOMPRESS_FORMATS_BINARY_KERNELS_H_
