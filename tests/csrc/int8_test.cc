// Drives every int8 kernel over random shapes and compares it with plain loops: integer sums exactly, floats to a bound that
// follows from K. Usage: int8_test [cases] [seed]. Runs every tier that this machine has, or all of them where AVX-512 is emulated.
#include "formats/int8/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "formats/int8/lookup.h"
#include "python/thread_pool.h"
#include "testing.h"

namespace tfcompress::int8 {
namespace {

using namespace tfcompress::testing;  // NOLINT(google-build-using-namespace)

struct Problem {
  MatMulArgs args;
  Rows x;
  std::vector<int8_t> weights;
  std::vector<uint8_t> kernel;
  std::vector<float> scale, mean, bias;
};

Problem MakeProblem(Random& random, int64_t m, int64_t k, int64_t n) {
  Problem p;
  std::normal_distribution<float> normal;
  p.x = MakeRows(random, m, k);
  MatMulArgs& a = p.args;
  a.m = m;
  a.k = k;
  a.n = n;
  a.x = p.x.data();
  a.x_type = p.x.type;
  a.x_stride = p.x.stride;
  a.activations = static_cast<Activations>(Uniform(random, 0, 2));
  a.x_scale = 0.02f;
  a.activation = static_cast<Activation>(Uniform(random, 0, static_cast<int64_t>(Activation::kCount) - 1));
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

// Quantises the block's rows, in two parts where there are several, and multiplies.
void RunInteger(const Kernels& kernels, const MatMulArgs& a, const Block& block) {
  const int64_t rows = block.row_end - block.row_begin;
  Scratch scratch(QuantizedRowsBytes(a, kernels, rows));
  const QuantizedRows quantized = QuantizedRowsIn(scratch.data(), a, kernels, block.row_begin, rows);
  const int64_t middle = block.row_begin + rows / 2;
  kernels.quantize_rows(a, middle, block.row_end, quantized);
  kernels.quantize_rows(a, block.row_begin, middle, quantized);
  kernels.multiply_integer(a, block, quantized);
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
    if (integer) return RunInteger(kernels, a, block);
    Scratch scratch(FloatScratchBytes(a, block.row_end - block.row_begin));
    static_cast<PreparedRows*>(scratch.data())->first = -1;
    kernels.multiply_float(a, block, scratch.data());
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
    const float* row = p.x.values.data() + r * a.k;
    Quantized quantized;
    if (integer) {
      quantized = QuantizeReference(row, a.k, a.activations == Activations::kStatic ? a.x_scale : 0.0f);
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
      EXPECT(IsActivated(a.activation, a.y_type, expected, bound, y[r * a.n + c]), "%s at %ld, %ld: %g, got %g", what.c_str(), static_cast<long>(r),
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
      float* x = p.x.x32.data() + p.x.offset;
      x[2 * k + 5] = poison;
      std::fill(x + 3 * k, x + 4 * k, 0.0f);
      std::vector<float> y(m * n);
      a.y = y.data();
      a.y_stride = n;
      RunInteger(kernels, a, {0, m, 0, 1});
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
    RunInteger(kernels, a, {0, 1, 0, 1});
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
      Scratch workspace(WorkspaceBytes(a, threads->NumThreads()));
      MatMul(a, workspace.data(), threads);
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

// Rows of a table in blocks of exactly their size, equal to the bit; the first index that is out of range is told.
void TestLookUp(LookUpRows& look_up, const char* tier, Random& random) {
  LookupArgs a;
  a.n = 1 + Size(random, 60);
  a.k = OneIn(random, 8) ? 500 + Size(random, 700) : Size(random, 140);
  a.count = Size(random, 40);
  a.wide = OneIn(random, 2);
  a.y_type = static_cast<ElementType>(Uniform(random, 0, 2));
  std::vector<int8_t> rows(static_cast<size_t>(a.n * a.k));
  for (int8_t& q : rows) q = static_cast<int8_t>(Uniform(random, -128, 127));
  std::normal_distribution<float> normal;
  std::vector<float> scale(static_cast<size_t>(a.n)), mean(scale.size());
  for (float& v : scale) v = normal(random);
  for (float& v : mean) v = normal(random);
  std::vector<int64_t> wide(static_cast<size_t>(a.count));
  for (int64_t& index : wide) index = Uniform(random, 0, a.n - 1);
  int64_t bad = a.count;
  if (a.count > 0 && OneIn(random, 3)) {
    bad = Uniform(random, 0, a.count - 1);
    const int64_t wrong[] = {-1, a.n, INT32_MIN, INT32_MAX, a.wide ? INT64_MIN : -2, a.wide ? INT64_MAX : -3};
    for (int64_t i = bad; i < a.count; ++i) {
      if (i == bad || OneIn(random, 3)) wide[static_cast<size_t>(i)] = wrong[Uniform(random, 0, 5)];
    }
  }
  const std::vector<int32_t> narrow(wide.begin(), wide.end());
  a.indices = a.wide ? static_cast<const void*>(wide.data()) : narrow.data();
  a.rows = rows.data();
  a.scale = scale.data();
  a.mean = OneIn(random, 2) ? mean.data() : nullptr;
  const bool narrow_y = a.y_type != ElementType::kFloat32;
  std::vector<float> y32(narrow_y ? 0 : static_cast<size_t>(a.count * a.k));
  std::vector<uint16_t> y16(narrow_y ? static_cast<size_t>(a.count * a.k) : 0);
  a.y = narrow_y ? static_cast<void*>(y16.data()) : y32.data();
  const int64_t reached = look_up(a, 0, a.count);
  EXPECT(reached == bad, "%s: reached %ld, not %ld", tier, static_cast<long>(reached), static_cast<long>(bad));
  for (int64_t i = 0; i < bad; ++i) {
    const auto r = static_cast<size_t>(wide[static_cast<size_t>(i)]);
    for (int64_t j = 0; j < a.k; ++j) {
      const size_t at = static_cast<size_t>(i * a.k + j);
      const auto scaled = static_cast<float>(static_cast<double>(scale[r]) * rows[r * static_cast<size_t>(a.k) + static_cast<size_t>(j)]);
      const float expected = a.mean != nullptr ? static_cast<float>(static_cast<double>(scaled) + mean[r]) : scaled;
      const bool equal = a.y_type == ElementType::kFloat32    ? y32[at] == expected
                         : a.y_type == ElementType::kBFloat16 ? y16[at] == RoundToBFloat(expected)
                                                              : std::fabs(HalfToFloat(y16[at]) - expected) <= 0x1p-11f * std::fabs(expected) + 0x1p-25f;
      EXPECT(equal, "%s: type %d, index %ld, number %ld: not %g", tier, static_cast<int>(a.y_type), static_cast<long>(i), static_cast<long>(j),
             static_cast<double>(expected));
    }
  }
}

// Many indices on several threads: the same rows, and the same first index out of range.
void TestLookUpOnThreads(Random& random) {
  WorkerThreads pool(3);
  SingleThread one;
  LookupArgs a;
  a.n = 100;
  a.k = 129;
  a.count = 5000;
  const std::vector<int8_t> rows(static_cast<size_t>(a.n * a.k), 3);
  std::vector<float> scale(static_cast<size_t>(a.n)), single(static_cast<size_t>(a.count * a.k)), several(single.size());
  for (size_t i = 0; i < scale.size(); ++i) scale[i] = static_cast<float>(i);
  std::vector<int32_t> indices(static_cast<size_t>(a.count));
  for (int32_t& index : indices) index = static_cast<int32_t>(Uniform(random, 0, a.n - 1));
  a.indices = indices.data();
  a.rows = rows.data();
  a.scale = scale.data();
  a.y = single.data();
  EXPECT(LookUp(a, &one) == a.count, "one thread");
  a.y = several.data();
  EXPECT(LookUp(a, &pool) == a.count, "three threads");
  EXPECT(single == several, "threads change rows");
  indices[4100] = -1;
  indices[1234] = 100;
  EXPECT(LookUp(a, &one) == 1234 && LookUp(a, &pool) == 1234, "the first index out of range");
}

int Main(int cases, uint64_t seed) {
  std::printf("int8_test: %d cases a tier, seed %lu\n", cases, static_cast<unsigned long>(seed));
  for (const Tier tier : DistinctTiers(KernelsFor)) {
    const Kernels& kernels = KernelsFor(tier);
    const char* name = kTierNames[static_cast<int>(tier)];
    Random random(seed);
    for (int i = 0; i < cases; ++i) {
      Problem p = MakeProblem(random, Size(random, 60), Size(random, i % 16 == 0 ? 2100 : 140), Size(random, 140));
      RunCase(kernels, name, p, random);
    }
    TestSpecialRows(kernels, name);
    TestExtremes(kernels, name);
    std::printf("%s: %d failures\n", name, failures);
  }
  for (const Tier tier : DistinctTiers(LookUpRowsFor)) {
    Random random(seed);
    for (int i = 0; i < cases; ++i) TestLookUp(LookUpRowsFor(tier), kTierNames[static_cast<int>(tier)], random);
  }
  Random random(seed);
  TestLookUpOnThreads(random);
  TestThreads(random, cases / 10);
  return Finish();
}

}  // namespace
}  // namespace tfcompress::int8

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 300;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : std::random_device{}();
  return tfcompress::int8::Main(cases, seed);
}
