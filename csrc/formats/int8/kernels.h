// The table that every instruction-set file fills and that matmul.cc picks from.
#ifndef TFCOMPRESS_FORMATS_INT8_KERNELS_H_
#define TFCOMPRESS_FORMATS_INT8_KERNELS_H_

#include "base/grid.h"
#include "base/quantize.h"
#include "formats/int8/int8.h"

namespace tfcompress::int8 {

struct Kernels {
  const char* integer_step;   // for people: the inner step of the integer path
  const char* float_step;     // and of the weight-only path
  int64_t x_group_bytes;      // bytes that a group of 4 quantised activations takes: 4 (int8) or 8 (int16)
  double macs_per_cycle;      // integer multiply-adds per core and cycle that large tiles reach; for the planner
  double float_macs_per_cycle;
  // Computes one block. `scratch` is this worker's own, 64-byte aligned, ScratchBytes() large. It remembers the activations that were
  // prepared last, so that a worker quantises a row block once for all of its panels.
  void (*multiply_integer)(const MatMulArgs& args, const Block& block, void* scratch);
  void (*multiply_float)(const MatMulArgs& args, const Block& block, void* scratch);
};

// Rows whose activations a worker prepares at a time, and that pass over a panel while it is in the caches: a multiple of every row tile.
inline constexpr int64_t kMaxBlockRows = 48;
// K values that the integer path multiplies at a time: 32 KiB of a panel, which stay in L1 (Zen 5: 48 KiB) beside the activations while all rows pass.
// On Zen 5 batch 16 gained a tenth over 1,024, larger batches nothing beyond the noise. Without any such limit 128 x 4096 x 4096 on AVX2 (a panel of
// 256 KiB and L2 of 512 KiB) runs at two thirds of the speed of 128 x 1024 x 1024.
inline constexpr int64_t kIntegerDepth = 512;
// K rows that the weight-only path dequantises at a time: 512 x 32 floats are 64 KiB, a part of L2.
inline constexpr int64_t kFloatDepth = 512;
inline constexpr int64_t kFloatColumns = 32;
// Rows that pass over dequantised weights: enough to hide what dequantising cost; 96 x 512 floats are 192 KiB, in L2 beside them.
inline constexpr int64_t kFloatBlockRows = 132;

// Up to this many rows weights are converted in registers rather than into memory: two tiles of DirectTile.
inline constexpr int64_t kFewRows = 8;

// Strides of scratch rows: whole cache lines, one line off the powers of two whose rows would share cache sets.
TFCOMPRESS_INLINE constexpr int64_t QuantizedStrideBytes(int64_t k, int64_t x_group_bytes) {
  return RoundUp(RoundUp(k, kGroup) / kGroup * x_group_bytes, 64) + 64;
}
TFCOMPRESS_INLINE constexpr int64_t FloatStrideBytes(int64_t k) { return RoundUp(k * 4, 64) + 64; }

// Whether the weight-only path multiplies a copy of its rows: to widen them, or since they are a large power of two apart, so that the rows of a
// tile share the sets of L1 (512 x 4096 x 4096 on Zen 5 runs at 83 % of the multiply-add peak instead of 70 %).
TFCOMPRESS_INLINE constexpr bool CopiesRows(const MatMulArgs& args) {
  return args.x_type != ElementType::kFloat32 || (args.m > kFewRows && args.x_stride * 4 % 1024 == 0);
}
// Of the last activations that were quantised into a worker's scratch memory, at its beginning. The values follow.
struct ScratchHeader {
  int64_t row_begin = 0, row_end = 0;  // rows that it holds
  RowScale row_scales[kMaxBlockRows];
};
inline constexpr int64_t kHeaderBytes = RoundUp(sizeof(ScratchHeader), 64);

// The most rows that a worker holds at a time.
TFCOMPRESS_INLINE constexpr int64_t MostRowsHeld(const MatMulArgs& args) {
  return args.activations == Activations::kFloat ? kFloatBlockRows : kMaxBlockRows;
}

// What a worker needs for blocks of `rows` rows. Its header must be cleared before the first call.
TFCOMPRESS_INLINE constexpr int64_t ScratchBytes(const MatMulArgs& args, const Kernels& kernels, int64_t rows) {
  const int64_t held = rows < MostRowsHeld(args) ? rows : MostRowsHeld(args);
  if (args.activations == Activations::kFloat) {
    const int64_t converted = CopiesRows(args) ? FloatStrideBytes(args.k) : 0;
    return held * (kPanelWidth * 4 + converted) + kFloatDepth * kFloatColumns * 4;
  }
  return kHeaderBytes + held * QuantizedStrideBytes(args.k, kernels.x_group_bytes);
}

const Kernels& PortableKernels();
#ifdef TFCOMPRESS_HAVE_X86_TIERS
const Kernels& Avx2Kernels();
const Kernels& Avx512Kernels();
const Kernels& Avx512VnniKernels();
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)
const Kernels& NeonKernels();
const Kernels& DotProdKernels();
#endif

// The kernels of a tier, or of the best one below it that was built for this machine.
const Kernels& KernelsFor(Tier tier);

}  // namespace tfcompress::int8

#endif  // TFCOMPRESS_FORMATS_INT8_KERNELS_H_
