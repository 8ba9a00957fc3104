// Weights of one or two bits on CUDA GPUs, from the same packed words as on the CPU: what the launchers ask for, and the tables of tiles with the
// functions that pick from them. No CUDA header: the launchers (cuda.cu) take a stream as a pointer, allocate nothing and wait for nothing.
//
// Which kernels run, for m rows of x:
//
//     activations   few rows (UsesGemv)                         more
//     binary        GEMV: xor + popcount; one launch, signs     rows become packed signs; tensor cores count bits: those that differ from 7.5 to 8.9,
//                   taken in it                                 those set in both on 9.0. From 10.0 on, which has no 1-bit tensor cores: as int8
//     int8          GEMV: dp4a on levels; one launch, x         rows are quantised, and put in the order in which levels come out of a word; tensor
//                   quantised in it                             cores multiply by levels that are taken out of words in registers
//     float         GEMV: weights decoded in registers          GEMM on decoded weights
//
// On tensor cores K is split where there are few tiles, and the sums of the parts are added. A word of 32 binary weights becomes the bytes of 8 words:
// field f is (word >> f) & 0x01010101, the levels of k = f, 8 + f, 16 + f, 24 + f; for a ternary one (word >> 2 f) & 0x03030303, k = f, 4 + f, ... A row
// of x in "field order" has its bytes so: two instructions for four weights, none of them a permutation. Products of levels are sums of x times
// w_l + 1 (or half of it): the row's sum is taken off.
//
// Integer results are bit-identical to the CPU's, and so are their epilogues; the mean magnitudes of rows (scale_x) are added up in another order.
#ifndef TFCOMPRESS_FORMATS_BINARY_CUDA_H_
#define TFCOMPRESS_FORMATS_BINARY_CUDA_H_

#include <cstdint>
#include <string>

#include "base/cuda_device.h"
#include "base/cuda_tiles.h"
#include "formats/binary/binary.h"

namespace tfcompress::binary {

// Empty, or what is wrong. Pointers of MatMulArgs are the device's.
std::string CheckCudaMatMul(const MatMulArgs& args);
// Bytes of device memory that CudaMatMul needs, 128-byte aligned.
int64_t CudaWorkspaceBytes(const MatMulArgs& args, const CudaDevice& device);
// Requires CheckCudaMatMul(args).empty(). Empty, or what went wrong with a launch.
std::string CudaMatMul(const MatMulArgs& args, void* workspace, const CudaDevice& device, void* stream);
// weights[k, n] = scale[n] * w_l[k, n] (+ mean[n]), float32 [k, n].
std::string CudaDequantize(Levels levels, const uint8_t* packed, int64_t k, int64_t n, const float* scale, const float* mean, float* weights,
                           void* stream);

// ---- GEMV -------------------------------------------------------------------------------------------------------------------------------
// A block owns `columns` outputs and all of K, and prepares x itself.

inline constexpr int kGemvRows = 8;  // 8 x 4 sums a thread, beside 16 registers of weights under way
inline constexpr int kGemvThreads = 256;
inline constexpr int kGemvColumns[] = {64, 32, 16};  // 256, 128 or 64 consecutive bytes of every k: whole sectors, wider where blocks abound
inline constexpr int kGemvSignsColumns = 32;         // at least, where y is packed signs: a block writes whole words
inline constexpr int kGemvBlocksPerMultiprocessor = 2;  // registers leave room for so many
// Blocks for ten multiprocessors from which on wider ones are not cut, by Activations. A block makes signs or bytes of x for itself, which takes as long
// as the words of 16 to 64 outputs, and its first loads, 16 KiB, are under way meanwhile: what a multiprocessor's share of DRAM's bandwidth needs. Floats
// are taken as they are: there the work is in decoding weights, and smaller blocks share it out more evenly.
inline constexpr int kGemvBlocksForTenMultiprocessors[] = {20, 9, 9};
// Bytes of x that a block holds in shared memory: beside the sums it leaves three blocks room on every architecture but 7.5 (two), and
// beside those of 8 rows and 64 outputs two (one). Signs and bytes of all of K must fit, floats come in chunks.
inline constexpr int64_t kGemvXBytes = 16 << 10;

// Whether the GEMV multiplies: up to 8 rows that fit into shared memory, as signs or bytes. In a cycle a multiprocessor counts the bits of 16 words, and
// of DRAM it gets 2 to 4 words: xor + popcount hides behind DRAM up to 4 rows. dp4a takes 8 instructions for a word and row beside 9 to 16 that take
// levels out of it, which 8 rows on tensor cores share: there the GEMV gains from 3 rows on only what a launch costs, where there are few weights.
inline constexpr int kGemvStreamRows[] = {8, 2, 4};               // by Activations
inline constexpr int64_t kGemvSmallBytesPerMultiprocessor = 8 << 10;  // of weights: about 3 us at 8 rows, as long as a launch
bool UsesGemv(const MatMulArgs& args, const CudaDevice& device);

struct GemvPlan {
  int columns = 16;
  int64_t blocks = 0;
  int chunk = 0;  // parts of words (words, but for floats) whose x shared memory holds at a time: all of them, but for floats
};
GemvPlan PlanGemv(const MatMulArgs& args, const CudaDevice& device);
int64_t GemvSharedBytes(const MatMulArgs& args, const GemvPlan& plan);
// Rows as the kernels are compiled for: 1, 2, 4 or 8.
TFCOMPRESS_INLINE constexpr int GemvRows(int64_t m) { return m <= 1 ? 1 : m <= 2 ? 2 : m <= 4 ? 4 : 8; }
// Weights whose floats a thread of the float GEMV takes at a time.
inline constexpr int kGemvFloatDepth = 8;

// ---- Tensor-core GEMM -------------------------------------------------------------------------------------------------------------------
// The kernel is base/cuda_panels_gemm.cuh's: 64 bytes of a row of x in a stage.

// 512 signs, 16 words of each output: the bytes that move are int8's, with an eighth of the stages for the same K.
inline constexpr GemmTile kSignsTiles[] = {
    {16, 128, 16, 32, 4, 2, "up to 16 rows: bound by weights; 32 KiB of them under way in a block of 128 threads"},
    {64, 128, 32, 64, 3, 2, "up to 64 rows, and larger batches of narrow layers, which larger tiles cut into too few blocks"},
    {128, 128, 64, 64, 3, 2, "large products: 64 x 64 a warp, shared memory read 0.75 times as long as the tensor cores multiply"},
};
inline constexpr int kNumSignsTiles = sizeof(kSignsTiles) / sizeof(kSignsTiles[0]);
inline constexpr GemmTable kSignsTable = {kSignsTiles, kNumSignsTiles, 16};

// 64 bytes of x, 2 (binary) or 4 (ternary) words of each output.
inline constexpr GemmTile kBytesTiles[] = {
    {16, 128, 16, 32, 8, 4, "up to 16 rows: bound by weights, of which a stage has only 1 or 2 KiB: 8 stages in 4 blocks keep 28 or 56 KiB under way"},
    {64, 128, 32, 64, 4, 2, "up to 64 rows, and larger batches of narrow layers, which larger tiles cut into too few blocks"},
    {128, 128, 64, 64, 4, 2, "large products: 8 mma for every fragment of levels, which takes 8 instructions out of words"},
};
inline constexpr int kNumBytesTiles = sizeof(kBytesTiles) / sizeof(kBytesTiles[0]);
inline constexpr GemmTable kBytesTables[] = {{kBytesTiles, kNumBytesTiles, 2}, {kBytesTiles, kNumBytesTiles, 4}};  // by Levels

// Whether the tensor cores of a device count bits; later ones get signs as bytes.
inline constexpr bool CountsBits(const CudaDevice& device) { return device.compute_capability < 100; }
// The table that multiplies quantised or binary activations, and how many stages K has.
const GemmTable& TableOf(const MatMulArgs& args, const CudaDevice& device);
int64_t GemmStagesOf(const MatMulArgs& args, const GemmTable& table);
GemmPlan PlanGemm(const MatMulArgs& args, const GemmTable& table, const CudaDevice& device);

// Where things lie in the workspace, in bytes from its beginning; 0 bytes where a launch needs none.
struct CudaWorkspace {
  int64_t row_scales = 0;       // RowScale [m], at 0
  int64_t signs_stride = 0;     // bytes of a row of signs, 0 where there are none
  int64_t signs = 0;            // [m, signs_stride]
  int64_t bytes_stride = 0;     // bytes of a row in field order, 0 where there are none
  int64_t x_bytes = 0;          // [m, bytes_stride]
  int64_t partial_sums = 0;     // [splits, m, partial_stride], int32 or float
  int64_t partial_stride = 0;   // 0 where K isn't split; with float sums 4 more than n, for the row sum
  int64_t bytes = 0;
};
CudaWorkspace LayOutWorkspace(const MatMulArgs& args, const CudaDevice& device);
CudaWorkspace LayOutGemm(const MatMulArgs& args, const GemmTable& table, const GemmPlan& plan);  // of a row of a table

}  // namespace tfcompress::binary

#endif  // TFCOMPRESS_FORMATS_BINARY_CUDA_H_
