// The table that every instruction-set file fills and that matmul.cc picks from.
//
// There are two kinds of kernels. "Rows" looks activations up: a tile of rows of x passes over the steps of a panel, and each step costs
// a look-up and a multiply-add for each row. "Columns" multiplies without look-ups: x is transposed once, and each stored weight costs
// one multiply-add for 8 or 16 rows of x at a time, which are read from L1.
#ifndef TFCOMPRESS_FORMATS_SPARSE_KERNELS_H_
#define TFCOMPRESS_FORMATS_SPARSE_KERNELS_H_

#include "base/grid.h"
#include "base/quantize.h"
#include "formats/sparse/sparse.h"

namespace tfcompress::sparse {

// Computes one block. `scratch` is this worker's own, 64-byte aligned, ScratchBytes() large. It remembers the activations that were prepared
// last, so that a worker prepares a row block once for all of its panels.
using Multiply = void (*)(const MatMulArgs& args, const Block& block, void* scratch);

// What CheckMatrix() asks of every step and output at each call. With the baseline instructions of CheckMatrix()'s own file that takes 5 to
// 12 % of the time of a product with one row, with these 1 to 3 %.
struct Findings {
  uint16_t last_window = 0;   // the largest
  bool panels_ascend = true;  // panels[p] <= panels[p + 1]
  bool in_order = true;       // order[j] = j
};
using Inspect = Findings (*)(const Matrix& matrix);

constexpr int kNumValues = static_cast<int>(Values::kCount);

struct Kernels {
  Inspect inspect;
  const char* rows_step[kNumValues];  // for people: the inner step
  const char* columns_step;
  Multiply rows[kNumValues];
  Multiply columns[kNumValues];
  int64_t rows_x_bytes[kNumValues];   // bytes of an activation that Rows has prepared
  double rows_cycles[kNumValues];     // a step and row, in large tiles; for the planner
  double columns_cycles[kNumValues];  // a step and 32 rows
};

// Rows of x that a worker holds prepared.
inline constexpr int64_t kRowsHeld = 64;     // Rows: tiles of nearly equal height
inline constexpr int64_t kColumnsHeld = 32;  // Columns: two registers of 16 or four of 8
// Steps that Rows passes over for each tile of rows: 2,048 of int8 values are 260 KiB, in L2.
inline constexpr int64_t kRowsSteps = 2048;
// Panels that it passes over at most: 4 KiB of sums of their weights.
inline constexpr int64_t kRowsPanels = 64;
// Columns of x where there are at most so many rows.
inline constexpr int64_t kFewColumns = 16;
// k that Columns multiplies at a time: 256 x 32 floats are 32 KiB, in L1; of 16 columns twice as many.
inline constexpr int64_t kColumnsDepth = 256;
// Panels whose sums Columns holds at a time: 64 x 16 x 32 floats are 128 KiB, in L2.
inline constexpr int64_t kColumnsPanels = 64;
// int8 values multiplied in float32: sums of at most 1,024 products of 127 * 127 (128 * 127 in a malformed matrix) are exact integers.
inline constexpr int64_t kExactSteps = 256;
static_assert(kExactSteps * 4 * 128 * 127 <= int64_t{1} << 24, "float32 must hold the sums exactly");

// Activations of a row that windows reach, padding included.
TFCOMPRESS_INLINE constexpr int64_t XExtent(const Matrix& a) {
  return a.k == 0 ? 0 : (NumWindows(a.values_type, a.k) - 1) * Stride(a.values_type) + a.reach;
}
TFCOMPRESS_INLINE constexpr int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
// Whole cache lines, one line off the powers of two whose rows would share cache sets and banks: look-ups from rows 2 KiB apart take three
// times as long.
TFCOMPRESS_INLINE constexpr int64_t RowStrideBytes(const Matrix& a, int64_t x_bytes) {
  const int64_t lines = RoundUp(XExtent(a) * x_bytes, 64) / 64;
  return (lines | 1) * 64;
}

struct ScratchHeader {
  int64_t row_begin = 0, row_end = 0;  // rows that it holds
  RowScale row_scales[kRowsHeld];
};
inline constexpr int64_t kHeaderBytes = RoundUp(sizeof(ScratchHeader), 64);

// What a worker needs for blocks of `rows` rows. Its header must be cleared before the first call.
TFCOMPRESS_INLINE constexpr int64_t RowsScratchBytes(const Matrix& a, int64_t x_bytes, int64_t rows) {
  return kHeaderBytes + (rows + 1) * RowStrideBytes(a, x_bytes);
}
TFCOMPRESS_INLINE constexpr int64_t ColumnsPitch(int64_t rows) { return rows > kFewColumns ? kColumnsHeld : kFewColumns; }
TFCOMPRESS_INLINE constexpr int64_t ColumnsScratchBytes(const Matrix& a, int64_t rows) {
  const int64_t k = RoundUp(XExtent(a), 16);
  return kHeaderBytes + k * ColumnsPitch(rows) * 4 + 16 * RowStrideBytes(a, 4) +
         kColumnsPanels * (kLanes * ColumnsPitch(rows) * 4 + static_cast<int64_t>(sizeof(int64_t)));
}

const Kernels& PortableKernels();
#ifdef TFCOMPRESS_HAVE_X86_TIERS
const Kernels& Avx2Kernels();
const Kernels& Avx512Kernels();
const Kernels& Avx512VbmiKernels();
const Kernels& Avx512Bf16Kernels();
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)
const Kernels& NeonKernels();
const Kernels& DotProdKernels();
#endif

// The kernels of a tier, or of the best one below it that was built for this machine.
const Kernels& KernelsFor(Tier tier);

// Which kind multiplies this many rows.
enum class Kind { kRows, kColumns };
Kind ChooseKind(Tier tier, Values values, int64_t m);
// Columns from this many rows of x on, or kNever.
inline constexpr int64_t kNever = int64_t{1} << 62;
int64_t ColumnsFrom(Tier tier, Values values);

}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_FORMATS_SPARSE_KERNELS_H_
