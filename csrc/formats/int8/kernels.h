// The table that every instruction-set file fills and that matmul.cc picks from.
#ifndef TFCOMPRESS_FORMATS_INT8_KERNELS_H_
#define TFCOMPRESS_FORMATS_INT8_KERNELS_H_

#include "base/grid.h"
#include "base/quantize.h"
#include "formats/int8/int8.h"

namespace tfcompress::int8 {

// Activations that were quantised for all workers.
struct QuantizedRows {
  int64_t first = 0;      // row of x that comes first
  int64_t row_bytes = 0;  // from one row to the next
  char* rows = nullptr;   // 64-byte aligned
  RowScale* row_scales = nullptr;
  TFCOMPRESS_INLINE char* Row(int64_t row) const { return rows + (row - first) * row_bytes; }
};

struct Kernels {
  const char* integer_step;   // for people: the inner step of the integer path
  const char* float_step;     // and of the weight-only path
  int64_t x_group_bytes;      // bytes that a group of 4 quantised activations takes: 4 (int8) or 8 (int16)
  double macs_per_cycle;      // integer multiply-adds per core and cycle that large tiles reach; for the planner
  double float_macs_per_cycle;
  void (*quantize_rows)(const MatMulArgs& args, int64_t row_begin, int64_t row_end, const QuantizedRows& quantized);
  // Each computes one block: of x quantised before, or with this worker's own `scratch`, 64-byte aligned, FloatScratchBytes() large, that
  // begins with PreparedRows.
  void (*multiply_integer)(const MatMulArgs& args, const Block& block, const QuantizedRows& quantized);
  void (*multiply_float)(const MatMulArgs& args, const Block& block, void* scratch);
};

// Rows that pass over a slice of a panel at a time: their sums lie in L1. A multiple of every row tile.
inline constexpr int64_t kPassRows = 48;
// Rows that are quantised at a time take at most this much, a part of L3, but kPassRows of them always fit: weights are read
// from memory once for all of them.
inline constexpr int64_t kQuantizedBytes = 3 << 20;
// Fewer activations are quantised by the caller alone: about 2 us of one core, what it takes to share them.
inline constexpr int64_t kLeastSharedActivations = 24 * 1024;
// K values that the integer path multiplies at a time, on tiers whose tiles are narrower than a panel: 32 KiB of a panel, which stay in L1 beside
// the activations while kPassRows rows pass. Without it 128 x 4096 x 4096 on AVX2 (a panel of 256 KiB and L2 of 512 KiB) runs at two thirds of
// the speed of 128 x 1024 x 1024. Tiles of AVX-512 read whole lines in order: on Zen 5 they reach 98 to 99 % of the peak from L2, and the partial
// sums that slices of K cost are 5 % of 128 x 4096 x 4096.
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

// What the weight-only path keeps from one block to the next, at the beginning of a worker's scratch: the blocks of the same rows that a worker takes
// one after the other share their copy. On Zen 5 512 x 1024 x 1024 and 512 x 768 x 3072 take 0.955 of the time of a copy a block.
struct alignas(64) PreparedRows {
  int64_t first;  // row of x whose block is prepared, or -1
  float sums[kFloatBlockRows];
};

// What a worker of the weight-only path needs for blocks of `rows` rows.
TFCOMPRESS_INLINE constexpr int64_t FloatScratchBytes(const MatMulArgs& args, int64_t rows) {
  const int64_t held = rows < kFloatBlockRows ? rows : kFloatBlockRows;
  const int64_t converted = CopiesRows(args) ? FloatStrideBytes(args.k) : 0;
  return static_cast<int64_t>(sizeof(PreparedRows)) + held * (kPanelWidth * 4 + converted) + kFloatDepth * kFloatColumns * 4;
}

// The most rows that are quantised at a time, all of about the same number.
TFCOMPRESS_INLINE constexpr int64_t QuantizedRowsAtATime(const MatMulArgs& args, const Kernels& kernels) {
  const int64_t fit = kQuantizedBytes / QuantizedStrideBytes(args.k, kernels.x_group_bytes) / kPassRows * kPassRows;
  const int64_t most = fit > kPassRows ? fit : kPassRows;
  const int64_t times = (args.m + most - 1) / most;
  return times <= 1 ? args.m : (args.m + times - 1) / times;
}
// What `rows` quantised rows take, their scales before them.
TFCOMPRESS_INLINE constexpr int64_t RowScalesBytes(int64_t rows) { return RoundUp(rows * static_cast<int64_t>(sizeof(RowScale)), 64); }
TFCOMPRESS_INLINE constexpr int64_t QuantizedRowsBytes(const MatMulArgs& args, const Kernels& kernels, int64_t rows) {
  return RowScalesBytes(rows) + rows * QuantizedStrideBytes(args.k, kernels.x_group_bytes);
}
// `rows` rows from `first` on, in `workspace`, which holds QuantizedRowsBytes() for them.
inline QuantizedRows QuantizedRowsIn(void* workspace, const MatMulArgs& args, const Kernels& kernels, int64_t first, int64_t rows) {
  char* const scales = static_cast<char*>(workspace);
  return {first, QuantizedStrideBytes(args.k, kernels.x_group_bytes), scales + RowScalesBytes(rows), reinterpret_cast<RowScale*>(scales)};
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
