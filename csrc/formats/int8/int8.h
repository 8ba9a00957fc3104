// int8 weights: y[m, n] = activation(x_scale[m] * (scale[n] * sum_k x_q[m, k] * w_q[k, n] + mean[n] * sum_k x_q[m, k]) + bias[n])
//
// w[k, n] ~ scale[n] * w_q[k, n] + mean[n], -127 <= w_q <= 127. The integer sums are exact: no saturation, on any tier.
//
// The packed kernel is one array of bytes for every machine. A byte holds w_q + 128 (zero point 128): unsigned bytes are the first
// operand of vpdpbusd, widen to int16 on AVX2 and decode to float by a bit trick; sum x_q * (byte - 128) = sum x_q * byte - 128 *
// sum x_q, and the row sum of x_q is needed for the mean anyway. Outputs lie in panels of 64, K in groups of 4:
//
//     panel 0 (64 outputs)                    panel 1              last panel: 16, 32, 48 or 64 outputs
//     +-------------------------------------+ +------------------+ +-------------+
//     | k 0-3 of output 0 | ... | of out 63 | | ...              | |             |
//     | k 4-7 of output 0 | ... |           | |                  | |             |
//     | ...  ceil(K / 4) groups             | |                  | |             |
//     +-------------------------------------+ +------------------+ +-------------+
//
//     byte(k, n) = 64 * (n / 64) * K4  +  (k / 4) * width * 4  +  (n % 64) * 4  +  k % 4       K4 = 4 * ceil(K / 4)
//
// For K = 10, N = 100: K4 = 12, panels of 64 and 48 outputs (36 rounded up to 48), 12 * 112 = 1,344 bytes; w[5, 70] is byte
// 64 * 12 + 1 * 48 * 4 + 6 * 4 + 1 = 985. A panel is one sequential stream (no power-of-two strides between streams, which would
// share cache sets). Padding, in K and in N, holds 128, the zero; kernels never depend on it, so that no byte can do harm.
#ifndef TFCOMPRESS_FORMATS_INT8_INT8_H_
#define TFCOMPRESS_FORMATS_INT8_INT8_H_

#include <cstdint>
#include <string>

#include "base/cpu.h"
#include "base/parallel.h"
#include "base/types.h"

namespace tfcompress::int8 {

inline constexpr int64_t kPanelWidth = 64;    // outputs: four 512-bit registers of int32 sums
inline constexpr int64_t kPanelQuantum = 16;  // the last panel's width is a multiple of this
inline constexpr int64_t kGroup = 4;          // k values that lie side by side: one lane of vpdpbusd
inline constexpr int64_t kZeroPoint = 128;
// |sum x_q * byte| <= 127 * 255 * 65,536 < 2^31: the largest K whose sums fit for any bytes.
inline constexpr int64_t kMaxInFeatures = 65536;
static_assert(127 * 255 * kMaxInFeatures < (int64_t{1} << 31), "sums must fit into int32");

TFCOMPRESS_INLINE constexpr int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
TFCOMPRESS_INLINE constexpr int64_t PackedBytes(int64_t k, int64_t n) { return RoundUp(k, kGroup) * RoundUp(n, kPanelQuantum); }
TFCOMPRESS_INLINE constexpr int64_t NumPanels(int64_t n) { return (n + kPanelWidth - 1) / kPanelWidth; }

// `weights` is [k, n], row-major. Values of -128 are kept as they are. Writes PackedBytes(k, n) bytes.
void Pack(const int8_t* weights, int64_t k, int64_t n, uint8_t* packed);
// The exact inverse of Pack.
void Unpack(const uint8_t* packed, int64_t k, int64_t n, int8_t* weights);
// Quantises float32 [k, n]: mean[n] is the column's mean (`mean` null: 0), scale[n] = max |w - mean| / 127, w_q = round to nearest
// even of (w - mean) / scale. A column without a nonzero has scale 0 and w_q 0. Returns false, with the outputs unspecified, where a weight is not
// finite, or so large that the centred weight is not.
bool QuantizeAndPack(const float* weights, int64_t k, int64_t n, uint8_t* packed, float* scale, float* mean);
// weights[k, n] = scale[n] * w_q[k, n] (+ mean[n]), rows split over the pool.
void Dequantize(const uint8_t* packed, int64_t k, int64_t n, const float* scale, const float* mean, float* weights,
                ThreadPool* pool);

enum class Activations : int {
  kDynamic,  // x_scale[m] = max_k |x[m, k]| / 127
  kStatic,   // x_scale is given, one for the tensor
  kFloat     // x is not quantised
};
inline constexpr const char* kActivationsNames[] = {"dynamic", "static", "float"};

// x_q = clamp(round to nearest even of x * (1 / x_scale), -127, 127), where 1 / x_scale is 127 / max |x| in the dynamic case.
// Dynamic: a row with a NaN or an infinity has x_scale NaN (so every output of that row is NaN); a row whose
// largest magnitude is below 2^-100 counts as zero. Static: infinities saturate like all that is out of range; a NaN makes its row NaN.
struct MatMulArgs {
  int64_t m = 0, k = 0, n = 0;
  const void* x = nullptr;  // [m, k], x_type, rows x_stride elements apart
  ElementType x_type = ElementType::kFloat32;
  int64_t x_stride = 0;
  const uint8_t* kernel = nullptr;  // PackedBytes(k, n)
  const float* scale = nullptr;     // [n]
  const float* mean = nullptr;      // [n] or null
  const float* bias = nullptr;      // [n] or null
  Activations activations = Activations::kDynamic;
  float x_scale = 0.0f;  // kStatic only
  Activation activation = Activation::kLinear;
  void* y = nullptr;  // [m, n], rows y_stride elements apart; kInt32: the bare integer sums (not with kFloat)
  ElementType y_type = ElementType::kFloat32;
  int64_t y_stride = 0;
  float* row_scale = nullptr;  // [m] or null: receives x_scale[m] (not with kFloat)
};

// Empty, or what is wrong with the arguments (sizes and enums; pointers are the caller's business).
std::string CheckMatMul(const MatMulArgs& args);
// Bytes of scratch memory that MatMul needs, for a pool of this many threads.
int64_t WorkspaceBytes(const MatMulArgs& args, int num_threads);
// Requires CheckMatMul(args).empty(). `workspace` is 64-byte aligned.
void MatMul(const MatMulArgs& args, void* workspace, ThreadPool* pool);

}  // namespace tfcompress::int8

#endif  // TFCOMPRESS_FORMATS_INT8_INT8_H_
