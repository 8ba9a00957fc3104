// Quantises rows of activations before they are multiplied.
#include "base/cuda_quantize.cuh"

namespace tfcompress {
namespace {

constexpr int kQuantizeThreads = 128;  // four warps: a row of 4,096 is eight loads of 16 bytes for each thread
constexpr int kQuantizeWarps = kQuantizeThreads / 32;
constexpr int64_t kQuantizeSharedBytes = 2 * kQuantizeWarps * 4;

// A block for each row. x is read twice, the second time from L1 or L2.
template <int kFields>
TFCOMPRESS_GLOBAL(kQuantizeThreads, 8)
QuantizeRowsKernel(CudaRows rows, const float* x_scale, uint8_t* q, int64_t q_stride, RowScale* row_scales, float* scale_copy) {
  uint32_t* of_warps = reinterpret_cast<uint32_t*>(SharedMemory());
  const int thread = ThreadIndex();
  const int64_t row = BlockIndex();
  uint32_t most = 0;
  for (int64_t i = 4 * thread; i < rows.k; i += 4 * kQuantizeThreads) {
    float v[4];
    LoadFour(rows, row, i, v);
    most = MostMagnitude(v, most);
  }
  most = WarpMost(most);
  if (thread % 32 == 0) of_warps[thread / 32] = most;
  SyncThreads();
#pragma unroll
  for (int w = 0; w < kQuantizeWarps; ++w) most = of_warps[w] > most ? of_warps[w] : most;
  const Scaling scaling = ScalingOf(most, x_scale);
  uint32_t sum = 0;
  for (int64_t i = thread; 4 * i < q_stride; i += kQuantizeThreads) {
    float v[4];
    LoadFields<kFields>(rows, row, i, v);
    *reinterpret_cast<uint32_t*>(q + row * q_stride + 4 * i) = QuantizeFour(v, scaling, &sum);
  }
  sum = WarpSum(sum);
  if (thread % 32 == 0) of_warps[kQuantizeWarps + thread / 32] = sum;
  SyncThreads();
  if (thread != 0) return;
  sum = 0;
#pragma unroll
  for (int w = 0; w < kQuantizeWarps; ++w) sum += of_warps[kQuantizeWarps + w];
  const RowScale row_scale = MakeRowScale(scaling, sum);
  row_scales[row] = row_scale;
  if (scale_copy != nullptr) scale_copy[row] = row_scale.scale;
}

}  // namespace

std::string LaunchQuantizeRows(const CudaRows& rows, const float* x_scale, uint8_t* q, int64_t q_stride, RowScale* row_scales,
                               float* scale_copy, void* stream, int fields) {
  const auto kernel = fields == 8 ? QuantizeRowsKernel<8> : fields == 4 ? QuantizeRowsKernel<4> : QuantizeRowsKernel<1>;
  return LaunchKernel("row quantisation", kernel, rows.m, kQuantizeThreads, kQuantizeSharedBytes, stream, rows, x_scale, q, q_stride,
                      row_scales, scale_copy);
}

}  // namespace tfcompress
