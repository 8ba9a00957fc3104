// Pruned weights on CUDA GPUs, from the same packed arrays as on the CPU: what the launchers ask for, and how work is cut. No CUDA header.
//
// Which kernels run, for m rows of x:
//
//     m <= kGatherMost   Gather: a block owns a panel of 16 outputs and up to 8 rows, which lie in shared memory whole. A thread takes 16 bytes of
//                        values, four outputs of a step, and looks each weight's activations up. Bound by the weights, which are read once.
//     more               Columns: a warp owns a panel and 64 rows, a lane two of them with 16 sums each; x lies transposed in shared memory, 128 k
//                        and a reach at a time, so that a weight's 64 activations are one load without bank conflicts. Bound by shared memory: a load of 4
//                        bytes for every multiplication that is left, a quarter to a half of the float32 peak counted on stored weights.
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
#include "formats/sparse/sparse.h"

namespace tfcompress::sparse {

struct CudaMatMulArgs {
  MatMulArgs matmul;               // device pointers; x_scale is not used; structure and values are 16-byte aligned
  const float* x_scale = nullptr;  // [1], kStatic only; one outside [kLeastXScale, kMostXScale] makes every output NaN
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

inline constexpr int64_t kGatherMost = 16;
inline constexpr int kGatherThreads = 128;  // 32 steps at a time: a panel of a 90 % pruned 1024 x 1024 matrix has about 130
// Shared memory for x in a Gather block; rows that do not fit even one at a time are looked up in global memory.
inline constexpr int64_t kGatherXBytes = 32 << 10;

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

}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_FORMATS_SPARSE_CUDA_H_
