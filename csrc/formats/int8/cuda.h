// int8 on CUDA GPUs, from the same packed bytes as on the CPU: what the launchers ask for, and the table of tiles with the function that picks
// a row of it. No CUDA header: the launchers (cuda.cu) take a stream as a pointer, allocate nothing and wait for nothing.
//
// Which kernels run, for m rows of x:
//
//     activations      m <= 8                                      more
//     quantised        GEMV: one launch, x quantised in it         rows are quantised; tensor-core GEMM; where K is split: sums are added
//     (long rows: rows are quantised first)
//     float            GEMV: weights decoded in registers          GEMM on decoded weights; where K is split: sums are added
//
// Integer results are bit-identical to the CPU's, and so are their epilogues.
#ifndef TFCOMPRESS_FORMATS_INT8_CUDA_H_
#define TFCOMPRESS_FORMATS_INT8_CUDA_H_

#include <cstdint>
#include <string>

#include "base/cuda_device.h"
#include "base/cuda_tiles.h"
#include "formats/int8/int8.h"
#include "formats/int8/lookup.h"

namespace tfcompress::int8 {

// Pointers are the device's. x_scale lies there too, unread by the host: one outside [kLeastXScale, kMostXScale] makes every output NaN.
struct CudaMatMulArgs {
  MatMulArgs matmul;               // x_scale is not used; kernel is 16-byte aligned
  const float* x_scale = nullptr;  // [1], kStatic only
};

// Empty, or what is wrong.
std::string CheckCudaMatMul(const CudaMatMulArgs& args);
// Bytes of device memory that CudaMatMul needs, 128-byte aligned.
int64_t CudaWorkspaceBytes(const CudaMatMulArgs& args, const CudaDevice& device);
// Requires CheckCudaMatMul(args).empty(). Empty, or what went wrong with a launch.
std::string CudaMatMul(const CudaMatMulArgs& args, void* workspace, const CudaDevice& device, void* stream);
// weights[k, n] = scale[n] * w_q[k, n] (+ mean[n]), float32 [k, n].
std::string CudaDequantize(const uint8_t* packed, int64_t k, int64_t n, const float* scale, const float* mean, float* weights, void* stream);
// lookup.h's LookUp, but that rows of indices out of range are zeros: the host would have to wait to know of them.
std::string CudaLookUp(const LookupArgs& args, void* stream);

// ---- GEMV: m <= kGemvRows ---------------------------------------------------------------------------------------------------------------
// A block owns `columns` outputs and all of K: no sums leave it. Its threads stream the weights 16 bytes at a time, four outputs of a group.

inline constexpr int kGemvRows = 8;  // 8 x 4 sums a thread, beside 16 registers of weights under way
inline constexpr int kGemvThreads = 256;
inline constexpr int kGemvColumns[] = {64, 32, 16};  // 256, 128 or 64 consecutive bytes of every group: whole sectors, wider where blocks abound
inline constexpr int kGemvBlocksPerMultiprocessor = 2;  // fewer do not keep enough loads under way to saturate DRAM
// Bytes of x that a block holds in shared memory: beside the sums it leaves three blocks room on every architecture but 7.5 (two), and
// beside those of 8 rows and 64 outputs two (one).
inline constexpr int64_t kGemvXBytes = 16 << 10;

struct GemvPlan {
  int columns = 16;
  int64_t blocks = 0;
  bool fused = true;         // quantises x itself: the rows fit into kGemvXBytes
  int64_t chunk_groups = 0;  // groups of K that shared memory holds at a time
};
GemvPlan PlanGemv(const MatMulArgs& args, const CudaDevice& device);
int64_t GemvSharedBytes(const MatMulArgs& args, const GemvPlan& plan);
// Rows as the kernels are compiled for: 1, 2, 4 or 8.
TFCOMPRESS_INLINE constexpr int GemvRows(int64_t m) { return m <= 1 ? 1 : m <= 2 ? 2 : m <= 4 ? 4 : 8; }

// ---- Tensor-core GEMM -------------------------------------------------------------------------------------------------------------------
// The kernel is base/cuda_panels_gemm.cuh's.

inline constexpr int kGemmDepth = kStageXBytes;  // K of a stage

inline constexpr GemmTile kGemmTiles[] = {
    {16, 128, 16, 32, 4, 2, "up to 16 rows: bound by weights; 32 KiB of them under way in a block of 128 threads"},
    {32, 128, 32, 32, 4, 2, "up to 32 rows: the same, two mma for every fragment of weights"},
    {64, 128, 32, 64, 3, 2, "up to 64 rows, and larger batches of narrow layers, which larger tiles cut into too few blocks"},
    {128, 128, 64, 64, 3, 2, "64 x 64 a warp: 128 sums in registers, shared memory read 0.75 times as long as the tensor cores multiply"},
    {128, 256, 64, 64, 3, 1, "large products: a third less traffic from L2 than 128 x 128, 8 warps"},
};
inline constexpr int kNumGemmTiles = sizeof(kGemmTiles) / sizeof(kGemmTiles[0]);

inline constexpr GemmTable kGemmTable = {kGemmTiles, kNumGemmTiles, kGemmDepth / static_cast<int>(kGroup)};

// Float activations, m > kGemvRows: 64 x 64 tiles of float32 multiply-adds (base/cuda_panels_float.cuh). The limit is the float32 peak: float32
// activations leave nothing for tensor cores that would keep their 24 bits.

// Where things lie in the workspace, in bytes from its beginning; 0 bytes where a launch needs none.
struct CudaWorkspace {
  int64_t x_stride = 0;     // bytes of a quantised row
  int64_t row_scales = 0;   // RowScale [m], at 0
  int64_t x = 0;            // [m, x_stride]
  int64_t partial_sums = 0; // [splits, m, partial_stride], int32 or float
  int64_t partial_stride = 0;  // RoundUp(n, 4); with float sums 4 more, for the row sum; 0 where K isn't split
  int64_t bytes = 0;
};
CudaWorkspace LayOutWorkspace(const CudaMatMulArgs& args, const CudaDevice& device);

}  // namespace tfcompress::int8

#endif  // TFCOMPRESS_FORMATS_INT8_CUDA_H_
