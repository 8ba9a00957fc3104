// Drives every int8 kernel over random shapes and compares it with plain loops: integer sums exactly, floats to a bound that
// follows from K. Usage: int8_test [cases] [seed]. Runs every tier that this machine has, or all of them where AVX-512 is emulated.
//
// Built with AddressSanitizer, every operand lies in a heap block of exactly its size: any byte read or written outside is reported.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "formats/int8/kernels.h"
#include "python/thread_pool.h"

namespace tfcompress::int8 {
namespace {

int failures = 0;

#define EXPECT(condition, ...)                                    \
  do {                                                            \
    if (!(condition)) {                                           \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
      if (++failures > 20) std::exit(1);                          \
    }                                                             \
  } while (false)

using Random = std::mt19937_64;

int64_t Uniform(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// Sizes that break things: 0, 1, around every tile and panel, primes, and now and then a large one.
int64_t Size(Random& random, int64_t most) {
  static constexpr int64_t kInteresting[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97, 127, 128, 129};
  if (Uniform(random, 0, 2) > 0) {
    const int64_t size = kInteresting[Uniform(random, 0, static_cast<int64_t>(std::size(kInteresting)) - 1)];
    if (size <= most) return size;
  }
  return Uniform(random, 0, most);
}

float HalfToFloat(uint16_t h) {
  const int exponent = h >> 10 & 31;
  const int mantissa = h & 1023;
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                               : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25));
}

float BFloatToFloat(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}

struct Problem {
  MatMulArgs args;
  std::vector<float> x_values;  // what x holds, as float32, [m, k]
  std::vector<float> x32;       // storage, with stride
  std::vector<uint16_t> x16;
  std::vector<int8_t> weights;
  std::vector<uint8_t> kernel;
  std::vector<float> scale, mean, bias;
};

Problem MakeProblem(Random& random, int64_t m, int64_t k, int64_t n) {
  Problem p;
  std::normal_distribution<float> normal;
  MatMulArgs& a = p.args;
  a.m = m;
  a.k = k;
  a.n = n;
  a.x_stride = k + Uniform(random, 0, 1) * Uniform(random, 0, 9);
  a.x_type = static_cast<ElementType>(Uniform(random, 0, 2));
  a.activations = static_cast<Activations>(Uniform(random, 0, 2));
  a.x_scale = 0.02f;
  a.activation = static_cast<Activation>(Uniform(random, 0, static_cast<int64_t>(Activation::kCount) - 1));
  const int64_t x_elements = m == 0 || k == 0 ? 0 : (m - 1) * a.x_stride + k;  // nothing after the last row
  std::vector<float> values(static_cast<size_t>(x_elements));
  for (float& v : values) v = normal(random);
  for (int64_t r = 0; r < m && k > 0; ++r) {
    const int64_t kind = Uniform(random, 0, 15);
    float* row = values.data() + r * a.x_stride;
    if (kind == 0) std::fill(row, row + k, 0.0f);
    if (kind == 1) row[Uniform(random, 0, k - 1)] = 1e6f;
    if (kind == 2) std::fill(row, row + k, 1e-33f);
  }
  if (a.x_type == ElementType::kFloat32) {
    p.x32 = values;
    a.x = p.x32.data();
  } else {
    p.x16.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      // The upper half of a float is a bfloat16; read as float16 it is some number too, if not a NaN or an infinity.
      uint32_t bits;
      std::memcpy(&bits, &values[i], sizeof(bits));
      p.x16[i] = static_cast<uint16_t>(bits >> 16);
      if (a.x_type == ElementType::kFloat16) {
        p.x16[i] = static_cast<uint16_t>(Uniform(random, 0, 0x4fff) | Uniform(random, 0, 1) << 15);
      }
      values[i] = a.x_type == ElementType::kFloat16 ? HalfToFloat(p.x16[i]) : BFloatToFloat(p.x16[i]);
    }
    a.x = p.x16.data();
  }
  p.x_values.resize(static_cast<size_t>(m * k));
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < k; ++i) p.x_values[r * k + i] = values[r * a.x_stride + i];
  }
  p.weights.resize(static_cast<size_t>(k * n));
  for (int8_t& w : p.weights) w = static_cast<int8_t>(Uniform(random, -128, 127));
  p.kernel.resize(static_cast<size_t>(PackedBytes(k, n)));
  Pack(p.weights.data(), k, n, p.kernel.data());
  std::vector<int8_t> unpacked(p.weights.size(), 99);
  Unpack(p.kernel.data(), k, n, unpacked.data());
  EXPECT(unpacked == p.weights, "unpack is not the inverse of pack for k %ld n %ld", static_cast<long>(k), static_cast<long>(n));
  // Padding must not matter: fill it with anything.
  std::vector<uint8_t> zero_weights(p.kernel.size()), one_weights(p.kernel.size());
  std::vector<int8_t> ones(p.weights.size(), 1), zeros(p.weights.size(), 0);
  Pack(ones.data(), k, n, one_weights.data());
  Pack(zeros.data(), k, n, zero_weights.data());
  for (size_t i = 0; i < p.kernel.size(); ++i) {
    if (one_weights[i] == zero_weights[i]) p.kernel[i] = static_cast<uint8_t>(Uniform(random, 0, 255));
  }
  a.kernel = p.kernel.data();
  const auto vector = [&](std::vector<float>& v) {
    v.resize(static_cast<size_t>(n));
    for (float& f : v) f = normal(random);
    return v.data();
  };
  a.scale = vector(p.scale);
  if (Uniform(random, 0, 1) == 1) a.mean = vector(p.mean);
  if (Uniform(random, 0, 1) == 1) a.bias = vector(p.bias);
  return p;
}

struct Quantized {
  std::vector<int32_t> q;
  float scale = 0.0f;
};

Quantized QuantizeReference(const MatMulArgs& a, const float* row) {
  float most = 0.0f;
  for (int64_t i = 0; i < a.k; ++i) most = std::fmax(most, std::fabs(row[i]));
  Quantized result;
  float inverse;
  if (a.activations == Activations::kStatic) {
    result.scale = a.x_scale;
    inverse = 1.0f / a.x_scale;
  } else {
    const bool zero = most < std::ldexp(1.0f, -100);
    result.scale = zero ? 0.0f : most / 127.0f;
    inverse = zero ? 0.0f : 127.0f / most;
  }
  for (int64_t i = 0; i < a.k; ++i) {
    const float scaled = row[i] * inverse;
    result.q.push_back(static_cast<int32_t>(std::nearbyint(std::fmin(std::fmax(scaled, -127.0f), 127.0f))));
  }
  return result;
}

// Keras' activations, in double.
double ActivateReference(Activation activation, double x) {
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
bool IsActivated(const MatMulArgs& a, double expected, double error, float actual) {
  const double ends[] = {ActivateReference(a.activation, expected - error), ActivateReference(a.activation, expected),
                         ActivateReference(a.activation, expected + error)};
  double low = std::min({ends[0], ends[1], ends[2]}), high = std::max({ends[0], ends[1], ends[2]});
  const double condition = a.activation == Activation::kExponential ? std::max(1.0, std::fabs(expected)) : 1.0;
  const double type_rounding = a.y_type == ElementType::kFloat16 ? 0x1p-11 : a.y_type == ElementType::kBFloat16 ? 0x1p-8 : 0;
  const auto slack = [&](double v) {
    const double rounding = a.activation == Activation::kLinear ? 0 : 3e-7 + 1e-6 * condition * std::fabs(v);
    return rounding + type_rounding * std::fabs(v) + (a.y_type == ElementType::kFloat16 ? 0x1p-25 : 0);
  };
  low -= slack(low);
  high += slack(high);
  const double largest = a.y_type == ElementType::kFloat16 ? 65504 : 3.38e38;
  if (std::isinf(actual)) return actual > 0 ? high >= largest : low <= -largest;
  return low <= actual && actual <= high;
}

// One case on one tier: the block function on the whole output, then on a random cut of it.
void RunCase(const Kernels& kernels, const char* tier, Problem& p, Random& random) {
  MatMulArgs a = p.args;
  const bool integer = a.activations != Activations::kFloat;
  std::vector<int32_t> sums(static_cast<size_t>(a.m * a.n), -1);
  std::vector<float> y(static_cast<size_t>(a.m * a.n), -1.0f);
  std::vector<uint16_t> y16(y.size(), 0x7fff);  // a NaN: what is not written is found
  std::vector<float> row_scale(static_cast<size_t>(a.m), -1.0f);
  a.y_stride = a.n;
  const int64_t panels = NumPanels(a.n);
  const auto run = [&](const Block& block) {
    const int64_t bytes = ScratchBytes(a, kernels, block.row_end - block.row_begin);
    void* scratch = nullptr;
    if (posix_memalign(&scratch, 64, static_cast<size_t>(bytes)) != 0) std::abort();
    std::memset(scratch, 0xab, static_cast<size_t>(bytes));
    if (integer) new (scratch) ScratchHeader;
    (integer ? kernels.multiply_integer : kernels.multiply_float)(a, block, scratch);
    std::free(scratch);
  };
  const auto run_all = [&] {
    if (a.m == 0 || a.n == 0) return;
    const int64_t row = Uniform(random, 0, a.m), panel = Uniform(random, 0, panels);
    for (const Block& block : {Block{0, row, 0, panel}, Block{row, a.m, 0, panel}, Block{0, row, panel, panels}, Block{row, a.m, panel, panels}}) {
      if (block.row_begin < block.row_end && block.panel_begin < block.panel_end) run(block);
    }
  };
  if (integer) {
    a.y = sums.data();
    a.y_type = ElementType::kInt32;
    a.row_scale = row_scale.data();
    run_all();
  }
  a.y_type = static_cast<ElementType>(Uniform(random, 0, 2));
  const bool narrow = a.y_type != ElementType::kFloat32;
  a.y = narrow ? static_cast<void*>(y16.data()) : y.data();
  a.row_scale = nullptr;
  run_all();
  for (size_t i = 0; narrow && i < y.size(); ++i) {
    y[i] = a.y_type == ElementType::kFloat16 ? HalfToFloat(y16[i]) : BFloatToFloat(y16[i]);
  }
  const std::string what = std::string(tier) + " m " + std::to_string(a.m) + " k " + std::to_string(a.k) + " n " + std::to_string(a.n) +
                           " " + kActivationsNames[static_cast<int>(a.activations)] + " x type " + std::to_string(static_cast<int>(a.x_type)) + " y type " +
                           std::to_string(static_cast<int>(a.y_type)) + " " + kActivationNames[static_cast<int>(a.activation)];
  for (int64_t r = 0; r < a.m; ++r) {
    const float* row = p.x_values.data() + r * a.k;
    Quantized quantized;
    if (integer) {
      quantized = QuantizeReference(a, row);
      if (a.n > 0) EXPECT(quantized.scale == row_scale[r], "%s row %ld", what.c_str(), static_cast<long>(r));
    }
    for (int64_t c = 0; c < a.n; ++c) {
      double expected = 0, size = 0;
      if (integer) {
        int64_t sum = 0, row_sum = 0;
        for (int64_t i = 0; i < a.k; ++i) {
          sum += static_cast<int64_t>(quantized.q[i]) * p.weights[i * a.n + c];
          row_sum += quantized.q[i];
        }
        EXPECT(sum == sums[r * a.n + c], "%s at %ld, %ld: %ld, got %d", what.c_str(), static_cast<long>(r), static_cast<long>(c),
               static_cast<long>(sum), sums[r * a.n + c]);
        const double parts[] = {static_cast<double>(a.scale[c]) * static_cast<double>(sum),
                                a.mean != nullptr ? static_cast<double>(a.mean[c]) * static_cast<double>(row_sum) : 0.0};
        expected = quantized.scale * (parts[0] + parts[1]);
        size = quantized.scale * (std::fabs(parts[0]) + std::fabs(parts[1]));
      } else {
        double sum = 0, sum_size = 0, row_sum = 0, row_size = 0;
        for (int64_t i = 0; i < a.k; ++i) {
          sum += static_cast<double>(row[i]) * p.weights[i * a.n + c];
          sum_size += std::fabs(static_cast<double>(row[i]) * p.weights[i * a.n + c]);
          row_sum += row[i];
          row_size += std::fabs(row[i]);
        }
        expected = a.scale[c] * sum + (a.mean != nullptr ? a.mean[c] * row_sum : 0.0);
        size = (std::fabs(a.scale[c]) * sum_size + (a.mean != nullptr ? std::fabs(a.mean[c]) * row_size : 0.0)) *
               (1.0 + static_cast<double>(a.k) / 8);
      }
      if (a.bias != nullptr) {
        expected += a.bias[c];
        size += std::fabs(a.bias[c]);
      }
      const double bound = 8 * 0x1p-24 * size + 1e-37;
      EXPECT(IsActivated(a, expected, bound, y[r * a.n + c]), "%s at %ld, %ld: %g, got %g", what.c_str(), static_cast<long>(r),
             static_cast<long>(c), expected, static_cast<double>(y[r * a.n + c]));
    }
  }
}

// NaN, infinity and zero rows have defined results, which depend on no other row.
void TestSpecialRows(const Kernels& kernels, const char* tier) {
  const int64_t k = 37, n = 21, m = 5;
  Random random(1);
  for (const Activations activations : {Activations::kDynamic, Activations::kStatic}) {
    for (const float poison : {std::nanf(""), INFINITY, -INFINITY}) {
      Problem p;
      do {
        p = MakeProblem(random, m, k, n);
      } while (p.args.x_type != ElementType::kFloat32 || p.args.x_stride != k);
      MatMulArgs a = p.args;
      a.activations = activations;
      a.activation = Activation::kLinear;
      a.x_scale = 0.02f;
      p.x32[2 * k + 5] = poison;
      std::fill(p.x32.begin() + 3 * k, p.x32.begin() + 4 * k, 0.0f);
      std::vector<float> y(m * n);
      a.y = y.data();
      a.y_stride = n;
      std::vector<char> scratch(static_cast<size_t>(ScratchBytes(a, kernels, m)));
      kernels.multiply_integer(a, {0, m, 0, 1}, scratch.data());
      const bool void_row = activations == Activations::kDynamic || std::isnan(poison);
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t c = 0; c < n; ++c) {
          const float value = y[r * n + c];
          EXPECT(std::isnan(value) == (r == 2 && void_row), "%s row %ld: %g", tier, static_cast<long>(r), static_cast<double>(value));
          if (r == 3) EXPECT(value == (a.bias != nullptr ? a.bias[c] : 0.0f), "%s zero row: %g", tier, static_cast<double>(value));
        }
      }
    }
  }
}

// The largest sums that can occur: nothing saturates.
void TestExtremes(const Kernels& kernels, const char* tier) {
  const int64_t k = kMaxInFeatures, n = 17;
  std::vector<int8_t> weights(k * n);
  for (int64_t i = 0; i < k * n; ++i) weights[i] = i % n % 2 == 0 ? 127 : -128;
  std::vector<uint8_t> kernel(PackedBytes(k, n));
  Pack(weights.data(), k, n, kernel.data());
  for (const float sign : {1.0f, -1.0f}) {
    const std::vector<float> x(k, sign);
    std::vector<int32_t> sums(n);
    MatMulArgs a;
    a.m = 1;
    a.k = a.x_stride = k;
    a.n = a.y_stride = n;
    a.x = x.data();
    a.kernel = kernel.data();
    a.y = sums.data();
    a.y_type = ElementType::kInt32;
    std::vector<char> scratch(static_cast<size_t>(ScratchBytes(a, kernels, 1)));
    kernels.multiply_integer(a, {0, 1, 0, 1}, scratch.data());
    for (int64_t c = 0; c < n; ++c) {
      const int64_t expected = k * 127 * (c % 2 == 0 ? 127 : -128) * static_cast<int64_t>(sign);
      EXPECT(sums[c] == expected, "%s extreme sum %ld, got %d", tier, static_cast<long>(expected), sums[c]);
    }
  }
}

// The public entry with several threads: the planner's blocks cover the output exactly.
void TestThreads(Random& random, int cases) {
  WorkerThreads pool(3);
  for (int i = 0; i < cases; ++i) {
    Problem p = MakeProblem(random, Size(random, 200), Size(random, 300), Size(random, 700));
    MatMulArgs a = p.args;
    a.activation = Activation::kLinear;
    std::vector<float> single(static_cast<size_t>(a.m * a.n), -1.0f), several(single.size(), -2.0f);
    a.y_stride = a.n;
    const auto run = [&](std::vector<float>& y, ThreadPool* threads) {
      a.y = y.data();
      void* workspace = nullptr;
      const int64_t bytes = WorkspaceBytes(a, threads->NumThreads());
      if (bytes > 0 && posix_memalign(&workspace, 64, static_cast<size_t>(bytes)) != 0) std::abort();
      MatMul(a, workspace, threads);
      std::free(workspace);
    };
    SingleThread one;
    run(single, &one);
    run(several, &pool);
    // Integer sums do not depend on the cut; float sums are added in another order in tiles of another height.
    float largest = 0.0f;
    for (float v : single) largest = std::fmax(largest, std::fabs(v));
    const float bound = a.activations == Activations::kFloat ? 1e-6f * static_cast<float>(a.k) * largest : 0.0f;
    for (size_t j = 0; j < single.size(); ++j) {
      EXPECT(std::fabs(single[j] - several[j]) <= bound, "threads change output %zu for m %ld k %ld n %ld: %g, %g", j,
             static_cast<long>(a.m), static_cast<long>(a.k), static_cast<long>(a.n), static_cast<double>(single[j]),
             static_cast<double>(several[j]));
    }
  }
}

int Main(int cases, uint64_t seed) {
  std::printf("int8_test: %d cases a tier, seed %lu\n", cases, static_cast<unsigned long>(seed));
#ifdef TFCOMPRESS_EMULATE_AVX512
  const Tier last = Tier::kAvx512Vnni;
#else
  const Tier last = DetectedTier();
#endif
  for (int t = 0; t <= static_cast<int>(last); ++t) {
    if (static_cast<Tier>(t) == Tier::kAvx2 && DetectedTier() < Tier::kAvx2) continue;
    const Kernels& kernels = KernelsFor(static_cast<Tier>(t));
    Random random(seed);
    for (int i = 0; i < cases; ++i) {
      Problem p = MakeProblem(random, Size(random, 60), Size(random, i % 16 == 0 ? 2100 : 140), Size(random, 140));
      RunCase(kernels, kTierNames[t], p, random);
    }
    TestSpecialRows(kernels, kTierNames[t]);
    TestExtremes(kernels, kTierNames[t]);
    std::printf("%s: %d failures\n", kTierNames[t], failures);
  }
  Random random(seed);
  TestThreads(random, cases / 10);
  std::printf("%s\n", failures == 0 ? "OK" : "FAILED");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tfcompress::int8

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 300;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : std::random_device{}();
  return tfcompress::int8::Main(cases, seed);
}
