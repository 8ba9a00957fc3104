// What the C++ tests of the formats share: failures, random sizes and activations, memory, and plain references of what the formats have in
// common. Built with AddressSanitizer, every operand lies in a heap block of exactly its size: any byte read or written outside is reported.
#ifndef TFCOMPRESS_TESTS_CSRC_TESTING_H_
#define TFCOMPRESS_TESTS_CSRC_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <random>
#include <vector>

#include "base/cpu.h"
#include "base/types.h"

namespace tfcompress::testing {

inline int failures = 0;

#define EXPECT(condition, ...)                                    \
  do {                                                            \
    if (!(condition)) {                                           \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
      if (++::tfcompress::testing::failures > 20) std::exit(1);   \
    }                                                             \
  } while (false)

// "OK" or "FAILED", and the exit status.
inline int Finish() {
  std::printf("%s\n", failures == 0 ? "OK" : "FAILED");
  return failures == 0 ? 0 : 1;
}

// The tiers whose kernels differ, out of those that this machine runs, or out of all where AVX-512 is emulated.
template <typename KernelsFor>
std::vector<Tier> DistinctTiers(const KernelsFor& kernels_for) {
#ifdef TFCOMPRESS_EMULATE_AVX512
  const int last = static_cast<int>(Tier::kCount) - 1;
#else
  const int last = static_cast<int>(DetectedTier());
#endif
  std::vector<Tier> tiers;
  for (int t = 0; t <= last; ++t) {
    const auto tier = static_cast<Tier>(t);
#ifdef TFCOMPRESS_EMULATE_AVX512
    if (tier == Tier::kAvx2 && DetectedTier() < Tier::kAvx2) continue;  // which is not emulated
#endif
    if (tiers.empty() || &kernels_for(tiers.back()) != &kernels_for(tier)) tiers.push_back(tier);
  }
  return tiers;
}

using Random = std::mt19937_64;

inline int64_t Uniform(Random& random, int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random); }
inline bool OneIn(Random& random, int64_t times) { return Uniform(random, 1, times) == 1; }

// Sizes that break things: 0, 1, around every tile and panel, primes, and now and then a large one.
inline int64_t Size(Random& random, int64_t most) {
  static constexpr int64_t kInteresting[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97, 127, 128, 129};
  if (Uniform(random, 0, 2) > 0) {
    const int64_t size = kInteresting[Uniform(random, 0, static_cast<int64_t>(std::size(kInteresting)) - 1)];
    if (size <= most) return size;
  }
  return Uniform(random, 0, most);
}

// Scratch memory: 64-byte aligned and full of NaNs, so that what is used before it is written is found.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    if (bytes == 0) return;
    if (posix_memalign(&data_, 64, static_cast<size_t>(bytes)) != 0) std::abort();
    std::memset(data_, 0xff, static_cast<size_t>(bytes));
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() { return data_; }

 private:
  void* data_ = nullptr;
};

inline float HalfToFloat(uint16_t h) {
  const int exponent = h >> 10 & 31;
  const int mantissa = h & 1023;
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                               : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25));
}

inline float BFloatToFloat(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}

// The upper half of a float.
inline uint16_t TruncateToBFloat(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof(bits));
  return static_cast<uint16_t>(bits >> 16);
}

// To nearest, ties to even; for finite values.
inline uint16_t RoundToBFloat(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Activations [m, k] of one type, rows `stride` elements apart. They begin anywhere in their block and end with it.
struct Rows {
  const void* data() const {
    return type == ElementType::kFloat32 ? static_cast<const void*>(x32.data() + offset) : static_cast<const void*>(x16.data() + offset);
  }

  ElementType type = ElementType::kFloat32;
  int64_t stride = 0, offset = 0;
  std::vector<float> x32;  // one of the two
  std::vector<uint16_t> x16;
  std::vector<float> values;  // the same as float32, [m, k]
};

// Normal values of a random type; some rows are zero, tiny or have an outlier.
inline Rows MakeRows(Random& random, int64_t m, int64_t k) {
  Rows rows;
  std::normal_distribution<float> normal;
  rows.type = static_cast<ElementType>(Uniform(random, 0, 2));
  rows.stride = k + Uniform(random, 0, 1) * Uniform(random, 0, 9);
  rows.offset = m == 0 || k == 0 ? 0 : Uniform(random, 0, 3);
  std::vector<float> values(static_cast<size_t>(m == 0 || k == 0 ? 0 : rows.offset + (m - 1) * rows.stride + k));
  for (float& v : values) v = normal(random);
  for (int64_t r = 0; r < m && k > 0; ++r) {
    const int64_t kind = Uniform(random, 0, 15);
    float* row = values.data() + rows.offset + r * rows.stride;
    if (kind == 0) std::fill(row, row + k, 0.0f);
    if (kind == 1) row[Uniform(random, 0, k - 1)] = 1e6f;
    if (kind == 2) std::fill(row, row + k, 1e-33f);
  }
  if (rows.type == ElementType::kFloat32) {
    rows.x32 = values;
  } else {
    rows.x16.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      const bool half = rows.type == ElementType::kFloat16;
      // Halves of any exponent but those of NaNs and infinities.
      rows.x16[i] = half ? static_cast<uint16_t>(Uniform(random, 0, 0x4fff) | Uniform(random, 0, 1) << 15) : TruncateToBFloat(values[i]);
      values[i] = half ? HalfToFloat(rows.x16[i]) : BFloatToFloat(rows.x16[i]);
    }
  }
  rows.values.resize(static_cast<size_t>(m * k));
  for (int64_t r = 0; r < m && k > 0; ++r) {
    std::copy_n(values.begin() + rows.offset + r * rows.stride, k, rows.values.begin() + r * k);
  }
  return rows;
}

// One row as int8, and its scale.
struct Quantized {
  std::vector<int32_t> q;
  float scale = 0.0f;
};

// x_scale > 0: the given scale; 0: the row's own.
inline Quantized QuantizeReference(const float* row, int64_t k, float x_scale) {
  float most = 0.0f;
  for (int64_t i = 0; i < k; ++i) most = std::fmax(most, std::fabs(row[i]));
  Quantized result;
  float inverse;
  if (x_scale > 0.0f) {
    result.scale = x_scale;
    inverse = 1.0f / x_scale;
  } else {
    const bool zero = most < std::ldexp(1.0f, -100);
    result.scale = zero ? 0.0f : most / 127.0f;
    inverse = zero ? 0.0f : 127.0f / most;
  }
  for (int64_t i = 0; i < k; ++i) {
    const float scaled = row[i] * inverse;
    result.q.push_back(static_cast<int32_t>(std::nearbyint(std::fmin(std::fmax(scaled, -127.0f), 127.0f))));
  }
  return result;
}

// Keras' activations, in double.
inline double ActivateReference(Activation activation, double x) {
  const auto sigmoid = [](double v) { return v >= 0 ? 1 / (1 + std::exp(-v)) : std::exp(v) / (1 + std::exp(v)); };
  const auto elu = [](double v, double alpha) { return v < 0 ? alpha * std::expm1(v) : v; };
  const auto relu6 = [](double v) { return std::min(std::max(v, 0.0), 6.0); };
  switch (activation) {
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kRelu6:
      return relu6(x);
    case Activation::kLeakyRelu:
      return x < 0 ? 0.2 * x : x;
    case Activation::kElu:
      return elu(x, 1);
    case Activation::kSelu:
      return 1.0507009873554805 * elu(x, 1.6732632423543772);
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return x * sigmoid(2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
    case Activation::kSilu:
      return x * sigmoid(x);
    case Activation::kSigmoid:
      return sigmoid(x);
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kSoftplus:
      return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
    case Activation::kSoftsign:
      return x / (1 + std::fabs(x));
    case Activation::kExponential:
      return std::exp(std::min(x, 600.0));
    case Activation::kHardSigmoid:
      return relu6(x + 3) / 6;
    case Activation::kHardSilu:
      return x * relu6(x + 3) / 6;
    default:
      return x;
  }
}

// Whether `actual` is activation(z) for some z within `error` of `expected`, give or take the rounding of the activation and of y's type.
inline bool IsActivated(Activation activation, ElementType y_type, double expected, double error, float actual) {
  double low = INFINITY, high = -INFINITY;
  const auto cover = [&](double z) {
    low = std::min(low, ActivateReference(activation, z));
    high = std::max(high, ActivateReference(activation, z));
  };
  for (const double z : {expected - error, expected, expected + error}) cover(z);
  // Extremes between the ends: the minima of gelu, gelu_tanh, silu and hard_silu.
  for (const double z : {-0.7517916, -0.7524615, -1.2784645, -1.5}) {
    if (std::fabs(z - expected) < error) cover(z);
  }
  const double condition = activation == Activation::kExponential ? std::max(1.0, std::fabs(expected)) : 1.0;
  const double type_rounding = y_type == ElementType::kFloat16 ? 0x1p-11 : y_type == ElementType::kBFloat16 ? 0x1p-8 : 0;
  const auto slack = [&](double v) {
    const double rounding = activation == Activation::kLinear ? 0 : 3e-7 + 1e-6 * condition * std::fabs(v);
    return rounding + type_rounding * std::fabs(v) + (y_type == ElementType::kFloat16 ? 0x1p-25 : 0);
  };
  low -= slack(low);
  high += slack(high);
  const double largest = y_type == ElementType::kFloat16 ? 65504 : 3.38e38;
  if (std::isinf(actual)) return actual > 0 ? high >= largest : low <= -largest;
  return low <= actual && actual <= high;
}

}  // namespace tfcompress::testing

#endif  // TFCOMPRESS_TESTS_CSRC_TESTING_H_
