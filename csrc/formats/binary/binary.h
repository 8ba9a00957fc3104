// Weights of one or two bits: y[m, n] = activation(x_scale[m] * (scale[n] * sum_k x_p[m, k] * w_l[k, n] + mean[n] * sum_k x_p[m, k]) + bias[n])
//
// w[k, n] ~ scale[n] * w_l[k, n] + mean[n], with w_l = +-1 (binary) or -1, 0, +1 (ternary). x_p is what became of the activations: x itself,
// x quantised to int8, or its signs. Integer sums are exact, on any tier.
//
// A weight is stored as a level of 1 or 2 bits: (w_l + 1) / 2 or w_l + 1. The levels of consecutive k of one output fill a word of 32 bits, the
// first k in the lowest bits; words are little-endian. Outputs lie in panels of 64, words of the same k side by side:
//
//     panel 0 (64 outputs)                    panel 1              last panel: 16, 32, 48 or 64 outputs
//     +-------------------------------------+ +------------------+ +-------------+
//     | word 0 of output 0 | ... | of out 63| | ...              | |             |
//     | word 1 of output 0 | ... |          | |                  | |             |
//     | ...  W = ceil(K / D) words          | |                  | |             |    D = 32 (binary) or 16 (ternary) weights a word
//     +-------------------------------------+ +------------------+ +-------------+
//
//     word(k, n) = 64 * (n / 64) * W  +  (k / D) * width  +  n % 64        level: bits (k % D) * bits of that word
//
// For K = 40, N = 100, binary: W = 2, panels of 64 and 48 outputs, 2 * 112 words = 896 bytes; w[35, 70] is bit 3 of word 64 * 2 + 1 * 48 + 6.
// A panel is one sequential stream. A word serves every kind of activations: against words of signs it is one operand of xor and popcount, its
// bytes masked are the levels of a dot product of bytes (activations are put in their order), and 4 bits of it are the index of a table of the
// 16 sums that 4 (2) activations can make. Every bit pattern is in bounds (the level 3 of ternary counts as 2); padding counts for nothing.
#ifndef TFCOMPRESS_FORMATS_BINARY_BINARY_H_
#define TFCOMPRESS_FORMATS_BINARY_BINARY_H_

#include <cstdint>
#include <string>

#include "base/cpu.h"
#include "base/parallel.h"
#include "base/types.h"

namespace tfcompress::binary {

enum class Levels : int { kBinary, kTernary };
inline constexpr int kNumLevels = 2;
inline constexpr const char* kLevelsNames[] = {"binary", "ternary"};

inline constexpr int64_t kPanelWidth = 64;    // outputs: four 512-bit registers of words
inline constexpr int64_t kPanelQuantum = 16;  // the last panel's width is a multiple of this
inline constexpr int64_t kWordBits = 32;
// 2 * 127 * K < 2^31, whatever the bits: the largest K whose sums fit into int32; K equal floats add up exactly in double.
inline constexpr int64_t kMaxInFeatures = int64_t{1} << 22;
static_assert(2 * 2 * 127 * kMaxInFeatures < (int64_t{1} << 31), "sums must fit into int32");

TFCOMPRESS_INLINE constexpr int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
TFCOMPRESS_INLINE constexpr int64_t RoundUp(int64_t value, int64_t multiple) { return DivideUp(value, multiple) * multiple; }
TFCOMPRESS_INLINE constexpr int BitsOf(Levels levels) { return levels == Levels::kBinary ? 1 : 2; }
TFCOMPRESS_INLINE constexpr int64_t NumWords(Levels levels, int64_t k) { return DivideUp(k * BitsOf(levels), kWordBits); }
TFCOMPRESS_INLINE constexpr int64_t PackedBytes(Levels levels, int64_t k, int64_t n) {
  return NumWords(levels, k) * RoundUp(n, kPanelQuantum) * 4;
}
TFCOMPRESS_INLINE constexpr int64_t NumPanels(int64_t n) { return DivideUp(n, kPanelWidth); }
// Words of the signs of one row of k activations: bit k % 32 of word k / 32 is set where x >= 0; what is beyond k counts for nothing.
TFCOMPRESS_INLINE constexpr int64_t SignWords(int64_t k) { return DivideUp(k, kWordBits); }

// `weights` is [k, n], row-major, +-1 or -1, 0, +1; others are undefined levels, but in bounds. Writes PackedBytes() bytes.
void Pack(Levels levels, const int8_t* weights, int64_t k, int64_t n, uint8_t* packed);
// The exact inverse of Pack.
void Unpack(Levels levels, const uint8_t* packed, int64_t k, int64_t n, int8_t* weights);

// How float weights become levels.
enum class Rule : int {
  kSign,     // binary: sign(w - mean), sign(0) = +1, scale[n] = mean |w - mean| of the column (XNOR-Net, Rastegari et al. 2016, section 3.1)
  kTwn,      // ternary: 0 where |w| <= 0.7 mean |w| of the column, scale[n] = mean |w| of what is left (Li et al. 2016, equations 5 and 6)
  kAbsMean,  // ternary: round(w / mean |w|) clamped to +-1, scale = mean |w| of the matrix (BitNet b1.58, Ma et al. 2024, equations 1 to 3)
};
// Writes the packed levels of float32 [k, n], scale [n], and `mean` [n], the columns' means, where it is not null (kSign only). A column of weights
// of one magnitude (or, ternary, of that magnitude and zeros) has just that scale. Returns false, with the outputs unspecified, where a weight is
// not finite, or so large that a centred weight is not.
bool QuantizeAndPack(Rule rule, const float* weights, int64_t k, int64_t n, uint8_t* packed, float* scale, float* mean);
// weights[k, n] = scale[n] * w_l[k, n] (+ mean[n]), rows split over the pool.
void Dequantize(Levels levels, const uint8_t* packed, int64_t k, int64_t n, const float* scale, const float* mean, float* weights,
                ThreadPool* pool);

enum class Activations : int {
  kFloat,  // x_p = x, products are summed in float32
  kInt8,   // x_p = round(x / x_scale[m]), x_scale[m] = max_k |x[m, k]| / 127, as int8/int8.h defines it
  kBinary  // x_p = sign(x), sign(0) = +1; x_scale[m] = 1, or mean_k |x[m, k]|; a row with a NaN has x_scale NaN. Binary levels only
};
inline constexpr const char* kActivationsNames[] = {"float", "int8", "binary"};

struct MatMulArgs {
  int64_t m = 0, k = 0, n = 0;
  const void* x = nullptr;  // [m, k], x_type, rows x_stride elements apart
  ElementType x_type = ElementType::kFloat32;
  int64_t x_stride = 0;
  const uint32_t* x_signs = nullptr;  // kBinary: not null in place of x: rows of SignWords(k) words
  Levels levels = Levels::kBinary;
  const uint8_t* kernel = nullptr;  // PackedBytes(levels, k, n)
  const float* scale = nullptr;     // [n]
  const float* mean = nullptr;      // [n] or null
  const float* bias = nullptr;      // [n] or null
  Activations activations = Activations::kFloat;
  bool scale_x = false;  // kBinary: x_scale[m] is the mean magnitude of the row
  Activation activation = Activation::kLinear;
  void* y = nullptr;  // [m, n], rows y_stride elements apart; kInt32: the bare integer sums (not with kFloat)
  ElementType y_type = ElementType::kFloat32;
  int64_t y_stride = 0;
  // kBinary: not null in place of y: rows of SignWords(n) words, bit n set where the integer sum >= threshold[n], zero beyond n. Scale, mean, bias and
  // activation are then not used: they, a batch normalisation and a sign are what the thresholds stand for.
  uint32_t* y_signs = nullptr;
  const int32_t* threshold = nullptr;  // [n]
  float* row_scale = nullptr;          // [m] or null: receives x_scale[m] (not with kFloat)
};

// Empty, or what is wrong with the arguments (sizes and enums; pointers are the caller's business).
std::string CheckMatMul(const MatMulArgs& args);
// Bytes of scratch memory that MatMul needs, for a pool of this many threads.
int64_t WorkspaceBytes(const MatMulArgs& args, int num_threads);
// Requires CheckMatMul(args).empty(). `workspace` is 64-byte aligned.
void MatMul(const MatMulArgs& args, void* workspace, ThreadPool* pool);

}  // namespace tfcompress::binary

#endif  // TFCOMPRESS_FORMATS_BINARY_BINARY_H_
