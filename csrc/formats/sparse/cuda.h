// Pruned weights on CUDA GPUs, from the same packed arrays as on the CPU: what the launchers ask for, and how work is cut. No CUDA header.
//
// Which kernels run, for m rows of x:
//
//     m <= kGatherOnly   Gather: a block owns a panel of 16 outputs and up to 8 rows, which lie in shared memory whole. A thread takes 16 bytes of
//                        values, four outputs of a step, and looks each weight's activations up. Bound by the weights, which are read once for
//                        as many rows as a block has: some more rows of short x stay here.
//     more               Tensor, where PlanProduct expects it to end first: the steps of a window are expanded into shared memory, zeros and all, and
//                        tensor cores multiply: s8, bf16 or tf32 as the values are. A block owns four panels; every weight is expanded once for up to
//                        256 rows, which takes as long as their products where 6 of 10 weights are stored (int8), and next to nothing where 1 is.
//     more, otherwise    Columns: a warp owns a panel and 64 rows, a lane two of them with 16 sums each; x lies transposed in shared memory, 128 k
//                        and a reach at a time, so that a weight's 64 activations are one load without bank conflicts. Bound by shared memory: a load of 4
//                        bytes for every multiplication that is left, a quarter to a half of the float32 peak counted on stored weights. It wins where
//                        few weights are stored (float32: 1 of 20 or fewer), and multiplies floats on 7.5, whose tensor cores know neither bf16 nor tf32.
//
// Tensor needs no pattern and gains by none: blocks of 16, 2:4 and random zeros of one density take the same time. mma.sp would multiply 2:4 twice as
// fast at best, if steps held its metadata; what then takes longest, expanding them, would stay.
//
// Tensor rounds x to bf16 (bfloat16 values), or x and weights to tf32 (float32 values), as TensorFlow's own float32 products on these GPUs do unless
// tf.config.experimental.enable_tensor_float_32_execution(False); then Columns multiplies. Sums are float32.
//
// int8 values: rows are quantised first; products and sums are exact integers, results bit-identical to the CPU's.
//
// A structure in device memory is not looked into by the host, as it is on the CPU (CheckMatrix). Whatever its bytes are, kernels read and write
// nothing out of bounds: windows, panels and indices are clamped, outputs that do not exist are not written. A structure of another in_features
// than x makes every output NaN.
#ifndef TFCOMPRESS_FORMATS_SPARSE_CUDA_H_
#define TFCOMPRESS_FORMATS_SPARSE_CUDA_H_

#include <cstdint>
#include <string>

#include "base/cuda_device.h"
#include "base/cuda_tiles.h"
#include "formats/sparse/sparse.h"

namespace tfcompress::sparse {

struct CudaMatMulArgs {
  MatMulArgs matmul;               // device pointers; x_scale is not used; structure and values are 16-byte aligned
  const float* x_scale = nullptr;  // [1], kStatic only; one outside [kLeastXScale, kMostXScale] makes every output NaN
  bool tensor_float = true;        // whether float products may be rounded as tensor cores do it
};

// Empty, or what is wrong.
std::string CheckCudaMatrix(const Matrix& matrix);
int64_t CudaWorkspaceBytes(const CudaMatMulArgs& args, const CudaDevice& device);
// Requires CheckCudaMatrix(args.matmul.matrix).empty(). Empty, or what went wrong with a launch.
std::string CudaMatMul(const CudaMatMulArgs& args, void* workspace, const CudaDevice& device, void* stream);
// As Dequantize and ValuesGradient in sparse.h. Of several values for one place any one counts.
std::string CudaDequantize(const Matrix& matrix, const float* scale, float* weights, void* stream);
std::string CudaValuesGradient(const Matrix& matrix, const float* x, const float* dz, int64_t m, float* gradient, void* stream);

// ---- Plans ------------------------------------------------------------------------------------------------------------------------------

inline constexpr int64_t kGatherOnly = 4;  // so few rows are bound by the weights' bytes in any kernel
inline constexpr int kGatherThreads = 128;  // 32 steps at a time: a panel of a 90 % pruned 1024 x 1024 matrix has about 130
// Shared memory for x in a Gather block: two rows of 4,096 and what windows reach behind them. Rows that do not fit even one at a time are looked up in
// global memory.
inline constexpr int64_t kGatherXBytes = 34 << 10;

inline constexpr int64_t kColumnsRows = 64;    // of x for a block
inline constexpr int64_t kColumnsAdvance = 128;  // k whose windows are multiplied at a time; shared memory holds `reach` more: 48 or 64 KiB
inline constexpr int kColumnsWarps[] = {8, 4, 2};  // panels of a block: as many as leave two blocks for every multiprocessor

struct GatherPlan {
  int rows = 1;         // of a block: 1, 2, 4 or 8
  bool shared = true;   // x lies in shared memory
  int64_t row_parts = 1;
};
GatherPlan PlanGather(const Matrix& matrix, int64_t m);

struct ColumnsPlan {
  int warps = 8;
  int64_t row_tiles = 1, panel_groups = 1;
};
ColumnsPlan PlanColumns(const Matrix& matrix, int64_t m, const CudaDevice& device);

// ---- Tensor -----------------------------------------------------------------------------------------------------------------------------
// 64 bytes of K, the stride of a window, are a stage. Its dense weights, and those that windows behind it reach into, lie in a ring of slots.

inline constexpr int kTensorThreads = 128;
inline constexpr int kTensorColumns = 64;   // four panels, one for each warp to expand
inline constexpr int kTensorRowBytes = 64;  // of a stage
inline constexpr GemmTile kTensorTiles[] = {
    {32, 64, 32, 16, 4, 4, "up to 32 rows: bound by how fast steps arrive and are expanded; four blocks hide it from each other"},
    {64, 64, 32, 32, 4, 4, "up to 64 rows, and larger batches of narrow layers"},
    {128, 64, 64, 32, 3, 2, "up to 128 rows; shared memory is read 1.2 times as long as the tensor cores of 8.0 multiply"},
    {256, 64, 64, 64, 3, 2, "large products: steps are expanded once for 256 rows, and 64 x 64 a warp reads shared memory 0.9 times as long"},
};
inline constexpr int kNumTensorTiles = sizeof(kTensorTiles) / sizeof(kTensorTiles[0]);

// Stages that the windows of a stage reach, itself included: float32 4, bfloat16 2, int8 1 or 2.
TFCOMPRESS_INLINE constexpr int TensorSpan(Values values) { return values == Values::kFloat32 ? 4 : 2; }
// One more is multiplied, one more cleared meanwhile; a power of two, so that places in the ring are masked.
TFCOMPRESS_INLINE constexpr int TensorSlots(Values values) { return values == Values::kFloat32 ? 8 : 4; }
// Sums on their way to the epilogue: so many rows at a time, [rows][64 + 4], where the operands lay.
inline constexpr int64_t kTensorSumsPitch = kTensorColumns + 4;
TFCOMPRESS_INLINE constexpr int TensorEpilogueRows(const GemmTile& t) { return t.rows < 64 ? t.rows : 64; }
TFCOMPRESS_INLINE constexpr int64_t TensorSharedBytes(const GemmTile& t, Values values, int compute_capability) {
  const int64_t operands = int64_t{GemmStages(t, compute_capability)} * t.rows * kTensorRowBytes + int64_t{TensorSlots(values)} * kTensorColumns * kTensorRowBytes;
  const int64_t sums = TensorEpilogueRows(t) * kTensorSumsPitch * 4;
  return operands > sums ? operands : sums;
}

struct TensorPlan {
  int tile = 0;        // row of the table
  int64_t splits = 1;  // parts of K, each of `stages` stages (the last may be shorter)
  int64_t stages = 0;
  int64_t row_tiles = 1, column_tiles = 1;
};

enum class Product { kGather, kColumns, kTensor };
struct ProductPlan {
  Product product = Product::kGather;
  TensorPlan tensor;
};
// The kernel that is expected to end first. The number of steps says how dense a matrix is.
ProductPlan PlanProduct(const CudaMatMulArgs& args, const CudaDevice& device);
// K in `splits` parts, or fewer where it has not so many stages.
TensorPlan PlanTensor(const Matrix& matrix, int64_t m, int tile, int64_t splits);
// Whether Tensor can multiply, and with this tile.
bool HasTensor(const CudaMatMulArgs& args, int tile, const CudaDevice& device);

// Where things lie in the workspace, in bytes from its beginning.
struct CudaWorkspace {
  int64_t row_scales = 0;   // RowScale [m], at 0; int8 values only
  int64_t rows_stride = 0;  // bytes of a row that is quantised or rounded before it is multiplied; 0 where rows are taken as they are
  int64_t rows = 0;         // [m, rows_stride]
  int64_t partial_sums = 0;    // [splits, m, partial_stride], int32 or float
  int64_t partial_stride = 0;  // 0 where K isn't split
  int64_t bytes = 0;
};
CudaWorkspace LayOutWorkspace(const CudaMatMulArgs& args, const ProductPlan& plan);
// CudaMatMul by a plan of the caller's, with a workspace that LayOutWorkspace lays out for it.
std::string CudaMatMulBy(const ProductPlan& plan, const CudaMatMulArgs& args, void* workspace, const CudaDevice& device, void* stream);

}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_FORMATS_SPARSE_CUDA_H_
