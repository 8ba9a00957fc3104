// Element-wise pieces of every epilogue and prologue: activations and conversions of float16 and bfloat16.
//
// Included by instruction-set files only. Plain loops over scalar functions without branches, which compilers vectorise for the
// instruction set of the including file: one body serves every tier. Everything has internal linkage (an inline function with
// external linkage could be emitted with AVX-512 and picked by the linker for old machines); a test reads the symbols of the objects.
//
// Accuracy: within 4 units in the last place of float32 or 3e-7 absolutely, whichever is larger; NaN in gives NaN out.
#ifndef TFCOMPRESS_BASE_ELEMENTWISE_INL_H_
#define TFCOMPRESS_BASE_ELEMENTWISE_INL_H_

#include <cstdint>

#include "base/types.h"

namespace tfcompress {
namespace {

template <typename To, typename From>
TFCOMPRESS_INLINE To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

TFCOMPRESS_INLINE int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

TFCOMPRESS_INLINE float Abs(float x) { return BitCast<float>(BitCast<uint32_t>(x) & 0x7fffffffu); }

// 1.5 * 2^23: adding it rounds |x| < 2^22 to the nearest integer (ties to even) and leaves that integer in the low mantissa bits.
constexpr float kRoundMagic = 12582912.0f;
constexpr int32_t kRoundMagicBits = 0x4b400000;

// e^x. Cody-Waite reduction and the polynomial of Cephes' expf (S. Moshier, "Methods and Programs for Mathematical Functions").
TFCOMPRESS_INLINE float Exp(float x) {
  float c = x > 88.8f ? 88.8f : x;  // comparisons are false for NaN, which passes through
  c = c < -104.0f ? -104.0f : c;
  const float shifted = c * 1.44269504088896341f + kRoundMagic;
  const int32_t n = BitCast<int32_t>(shifted) - kRoundMagicBits;
  const float nf = shifted - kRoundMagic;
  const float r = (c - nf * 0.693359375f) - nf * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors, so that both ends of the range (n = 128, n < -126) come out as infinity and as a denormal.
  const int32_t half = n >> 1;
  return p * BitCast<float>(static_cast<uint32_t>(half + 127) << 23) *
         BitCast<float>(static_cast<uint32_t>(n - half + 127) << 23);
}

// log(1 + u) for 0 <= u <= 1: the series of 2 atanh(u / (2 + u)), whose argument is at most 1/3.
TFCOMPRESS_INLINE float Log1pUnit(float u) {
  const float s = u / (2.0f + u);
  const float z = s * s;
  float p = 1.0f / 15;
  p = p * z + 1.0f / 13;
  p = p * z + 1.0f / 11;
  p = p * z + 1.0f / 9;
  p = p * z + 1.0f / 7;
  p = p * z + 1.0f / 5;
  p = p * z + 1.0f / 3;
  return 2.0f * s + 2.0f * s * z * p;
}

TFCOMPRESS_INLINE float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

// Small |x|: the polynomial of Cephes' tanhf; otherwise through the exponential.
TFCOMPRESS_INLINE float Tanh(float x) {
  const float a = Abs(x);
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x;
  const float large = 1.0f - 2.0f / (Exp(2.0f * a) + 1.0f);
  const float signed_large = x < 0.0f ? -large : large;
  return a < 0.625f ? small : signed_large;
}

// erfc(x) to a relative error of 1.2e-7 (Press et al., "Numerical Recipes in C", section 6.2).
TFCOMPRESS_INLINE float Erfc(float x) {
  const float a = Abs(x);
  const float t = 1.0f / (1.0f + 0.5f * a);
  float p = 0.17087277f;
  p = p * t - 0.82215223f;
  p = p * t + 1.48851587f;
  p = p * t - 1.13520398f;
  p = p * t + 0.27886807f;
  p = p * t - 0.18628806f;
  p = p * t + 0.09678418f;
  p = p * t + 0.37409196f;
  p = p * t + 1.00002368f;
  p = p * t - 1.26551223f;
  const float tail = t * Exp(p - a * a);
  return x < 0.0f ? 2.0f - tail : tail;
}

TFCOMPRESS_INLINE float Relu6(float x) {
  const float low = x < 0.0f ? 0.0f : x;
  return low > 6.0f ? 6.0f : low;
}

TFCOMPRESS_INLINE float Elu(float x, float alpha) {
  const float negative = x < 0.0f ? x : 0.0f;
  return x < 0.0f ? alpha * (Exp(negative) - 1.0f) : x;
}

template <Activation kAct>
TFCOMPRESS_INLINE float Activate(float x) {
  switch (kAct) {
    case Activation::kRelu:
      return x < 0.0f ? 0.0f : x;
    case Activation::kRelu6:
      return Relu6(x);
    case Activation::kLeakyRelu:
      return x < 0.0f ? 0.2f * x : x;
    case Activation::kElu:
      return Elu(x, 1.0f);
    case Activation::kSelu:
      return 1.0507009873554805f * Elu(x, 1.6732632423543772f);
    case Activation::kGelu:
      return 0.5f * x * Erfc(x * -0.70710678118654752f);
    case Activation::kGeluTanh:
      return x * Sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
    case Activation::kSilu:
      return x * Sigmoid(x);
    case Activation::kSigmoid:
      return Sigmoid(x);
    case Activation::kTanh:
      return Tanh(x);
    case Activation::kSoftplus:
      return (x < 0.0f ? 0.0f : x) + Log1pUnit(Exp(-Abs(x)));
    case Activation::kSoftsign:
      return x / (1.0f + Abs(x));
    case Activation::kExponential:
      return Exp(x);
    case Activation::kHardSigmoid:
      return Relu6(x + 3.0f) * (1.0f / 6.0f);
    case Activation::kHardSilu:
      return x * Relu6(x + 3.0f) * (1.0f / 6.0f);
    case Activation::kLinear:
    case Activation::kCount:
      return x;
  }
  return x;
}

template <Activation kAct>
void ActivateAll(float* v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) v[i] = Activate<kAct>(v[i]);
}

// v[i] = activation(v[i]) for 0 <= i < n.
[[maybe_unused]] void ApplyActivation(Activation activation, float* v, int64_t n) {
  switch (activation) {
#define TFCOMPRESS_CASE(name) \
  case Activation::name:      \
    return ActivateAll<Activation::name>(v, n)
    TFCOMPRESS_CASE(kRelu);
    TFCOMPRESS_CASE(kRelu6);
    TFCOMPRESS_CASE(kLeakyRelu);
    TFCOMPRESS_CASE(kElu);
    TFCOMPRESS_CASE(kSelu);
    TFCOMPRESS_CASE(kGelu);
    TFCOMPRESS_CASE(kGeluTanh);
    TFCOMPRESS_CASE(kSilu);
    TFCOMPRESS_CASE(kSigmoid);
    TFCOMPRESS_CASE(kTanh);
    TFCOMPRESS_CASE(kSoftplus);
    TFCOMPRESS_CASE(kSoftsign);
    TFCOMPRESS_CASE(kExponential);
    TFCOMPRESS_CASE(kHardSigmoid);
    TFCOMPRESS_CASE(kHardSilu);
#undef TFCOMPRESS_CASE
    case Activation::kLinear:
    case Activation::kCount:
      return;
  }
}

TFCOMPRESS_INLINE float FromBFloat16(uint16_t h) { return BitCast<float>(static_cast<uint32_t>(h) << 16); }

// Round to nearest even; NaN stays NaN (quiet).
TFCOMPRESS_INLINE uint16_t ToBFloat16(float f) {
  const uint32_t u = BitCast<uint32_t>(f);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint32_t nan = (u >> 16) | 0x40u;
  return static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// Denormal halves are normal floats: subtracting the implicit one in float arithmetic normalises them, without denormal operands.
TFCOMPRESS_INLINE float FromFloat16(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fffu) << 13;
  const uint32_t exponent = magnitude & 0x0f800000u;
  const uint32_t normal = magnitude + (112u << 23);
  const uint32_t inf_nan = magnitude + (224u << 23);
  const float denormal = BitCast<float>(magnitude + (113u << 23)) - BitCast<float>(113u << 23);
  uint32_t bits = exponent == 0x0f800000u ? inf_nan : normal;
  bits = exponent == 0 ? BitCast<uint32_t>(denormal) : bits;
  return BitCast<float>(bits | (static_cast<uint32_t>(h & 0x8000u) << 16));
}

// Round to nearest even; beyond 65,519.99 infinity; NaN stays NaN (quiet).
TFCOMPRESS_INLINE uint16_t ToFloat16(float f) {
  const uint32_t u = BitCast<uint32_t>(f);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t a = u & 0x7fffffffu;
  // Adding 0.5 aligns the ulp of a half denormal (2^-24) with the last bit of the float: the hardware rounds.
  const uint32_t denormal = BitCast<uint32_t>(BitCast<float>(a) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (a - (112u << 23) + 0xfffu + ((a >> 13) & 1u)) >> 13;
  uint32_t half = a < (113u << 23) ? denormal : normal;
  half = a >= (143u << 23) ? 0x7c00u : half;
  half = a > 0x7f800000u ? 0x7e00u : half;
  return static_cast<uint16_t>(half | sign);
}

// to[i] = float(from[i])
[[maybe_unused]] void LoadAsFloat(const void* from, ElementType type, float* __restrict__ to, int64_t n) {
  if (n == 0) return;  // `from` may be null
  if (type == ElementType::kFloat32) {
    __builtin_memcpy(to, from, static_cast<uint64_t>(n) * sizeof(float));
    return;
  }
  const uint16_t* h = static_cast<const uint16_t*>(from);
  if (type == ElementType::kBFloat16) {
    for (int64_t i = 0; i < n; ++i) to[i] = FromBFloat16(h[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = FromFloat16(h[i]);
  }
}

// to[i] = type(from[i])
[[maybe_unused]] void StoreFromFloat(const float* __restrict__ from, void* to, ElementType type, int64_t n) {
  if (type == ElementType::kFloat32) {
    __builtin_memcpy(to, from, static_cast<uint64_t>(n) * sizeof(float));
    return;
  }
  uint16_t* h = static_cast<uint16_t*>(to);
  if (type == ElementType::kBFloat16) {
    for (int64_t i = 0; i < n; ++i) h[i] = ToBFloat16(from[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) h[i] = ToFloat16(from[i]);
  }
}

// The sum of f(x[i]): independent sums, so that the order of additions, and the result, is the same on every tier.
template <typename F>
TFCOMPRESS_INLINE float SumOf(const float* x, int64_t n, const F& f) {
  constexpr int64_t kSums = 16;
  float sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += f(x[i + j]);
  }
  for (; i < n; ++i) sums[i % kSums] += f(x[i]);
  float total = 0.0f;
  for (float s : sums) total += s;
  return total;
}
TFCOMPRESS_INLINE float SumOf(const float* x, int64_t n) {
  return SumOf(x, n, [](float v) { return v; });
}
TFCOMPRESS_INLINE float SumOfMagnitudes(const float* x, int64_t n) {
  return SumOf(x, n, [](float v) { return Abs(v); });
}

TFCOMPRESS_INLINE int64_t ElementBytes(ElementType type) {
  return type == ElementType::kFloat32 || type == ElementType::kInt32 ? 4 : 2;
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_ELEMENTWISE_INL_H_
