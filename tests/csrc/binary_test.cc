// Drives every kernel for weights of one and two bits over random shapes and compares it with plain loops: integer sums and packed signs exactly,
// floats to a bound that follows from K. Packed weights are random bytes, padding and undefined levels included: none may do harm, so this is
// also the fuzz test of the format. Usage: binary_test [cases] [seed]. Runs every tier that this machine has, or all of them where AVX-512 is
// emulated.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "formats/binary/kernels.h"
#include "python/thread_pool.h"
#include "testing.h"

namespace tfcompress::binary {
namespace {

using namespace tfcompress::testing;  // NOLINT(google-build-using-namespace)

struct Problem {
  MatMulArgs args;
  Rows x;
  std::vector<uint32_t> signs;
  std::vector<uint8_t> kernel;
  std::vector<float> scale, mean, bias;
  std::vector<int32_t> threshold;

  // The weight that the bytes stand for, by the drawing in binary.h.
  int Weight(int64_t k, int64_t n) const {
    const int64_t bits = args.levels == Levels::kBinary ? 1 : 2, depth = 32 / bits, words = (args.k + depth - 1) / depth;
    const int64_t panel = n / 64, columns = (args.n + 15) / 16 * 16;
    const int64_t width = std::min<int64_t>(64, columns - 64 * panel);
    const int64_t word = 64 * panel * words + k / depth * width + n % 64;
    const int64_t bit = k % depth * bits;
    const int level = kernel[static_cast<size_t>(word * 4 + bit / 8)] >> (bit % 8) & ((1 << bits) - 1);
    return args.levels == Levels::kBinary ? 2 * level - 1 : level - 1;
  }
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
  a.levels = a.activations == Activations::kBinary ? Levels::kBinary : static_cast<Levels>(Uniform(random, 0, 1));
  a.activation = static_cast<Activation>(Uniform(random, 0, static_cast<int64_t>(Activation::kCount) - 1));
  p.kernel.resize(static_cast<size_t>(PackedBytes(a.levels, k, n)));
  for (uint8_t& byte : p.kernel) byte = static_cast<uint8_t>(Uniform(random, 0, 255));
  a.kernel = p.kernel.data();
  const auto vector = [&](std::vector<float>& v) {
    v.resize(static_cast<size_t>(n));
    for (float& f : v) f = normal(random);
    return v.data();
  };
  a.scale = vector(p.scale);
  if (OneIn(random, 2)) a.mean = vector(p.mean);
  if (OneIn(random, 2)) a.bias = vector(p.bias);
  if (a.activations == Activations::kBinary && OneIn(random, 2)) {
    // Signs come packed, and what lies beyond k is anything.
    p.signs.resize(static_cast<size_t>(m * SignWords(k)));
    for (uint32_t& word : p.signs) word = static_cast<uint32_t>(random());
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t i = 0; i < k; ++i) {
        p.x.values[static_cast<size_t>(r * k + i)] = p.signs[static_cast<size_t>(r * SignWords(k) + i / 32)] >> (i % 32) & 1 ? 1.0f : -1.0f;
      }
    }
    a.x_signs = p.signs.data();
    if (p.signs.empty()) a.x_signs = reinterpret_cast<const uint32_t*>(&p);  // not read
  }
  a.scale_x = a.activations == Activations::kBinary && a.x_signs == nullptr && OneIn(random, 2);
  p.threshold.resize(static_cast<size_t>(n));
  for (int32_t& t : p.threshold) t = static_cast<int32_t>(Uniform(random, -5, 5));
  if (n > 0 && OneIn(random, 4)) p.threshold[0] = OneIn(random, 2) ? INT32_MIN : INT32_MAX;
  return p;
}

// Packs and unpacks weights of the levels.
void TestPack(Random& random, Levels levels, int64_t k, int64_t n) {
  std::vector<int8_t> weights(static_cast<size_t>(k * n));
  for (int8_t& w : weights) w = static_cast<int8_t>(levels == Levels::kBinary ? 2 * Uniform(random, 0, 1) - 1 : Uniform(random, -1, 1));
  Problem p;
  p.args.k = k;
  p.args.n = n;
  p.args.levels = levels;
  p.kernel.assign(static_cast<size_t>(PackedBytes(levels, k, n)), 0x5a);
  Pack(levels, weights.data(), k, n, p.kernel.data());
  std::vector<int8_t> unpacked(weights.size(), 99);
  Unpack(levels, p.kernel.data(), k, n, unpacked.data());
  EXPECT(unpacked == weights, "unpack is not the inverse of pack for k %ld n %ld", static_cast<long>(k), static_cast<long>(n));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      EXPECT(p.Weight(i, j) == weights[static_cast<size_t>(i * n + j)], "weight %ld, %ld", static_cast<long>(i), static_cast<long>(j));
    }
  }
}

// One case on one tier: the block function on a random cut of the output.
void RunCase(const Kernels& kernels, const char* tier, Problem& p, Random& random) {
  MatMulArgs a = p.args;
  const bool integer = a.activations != Activations::kFloat;
  const auto outputs = static_cast<size_t>(a.m * a.n);
  std::vector<int32_t> sums(outputs, -1);
  std::vector<float> y(outputs, -1.0f);
  std::vector<uint16_t> y16(outputs, 0x7fff);  // a NaN: what is not written is found
  std::vector<float> row_scale(static_cast<size_t>(a.m), -1.0f);
  std::vector<uint32_t> y_signs(static_cast<size_t>(a.m * SignWords(a.n)), 0xdeadbeef);
  a.y_stride = a.n;
  const int64_t panels = NumPanels(a.n);
  const Multiply multiply = kernels.multiply[static_cast<int>(a.levels)][static_cast<int>(a.activations)];
  const auto run_all = [&] {
    if (a.m == 0 || a.n == 0) return;
    const int64_t row = Uniform(random, 0, a.m), panel = Uniform(random, 0, panels);
    for (const Block& block : {Block{0, row, 0, panel}, Block{row, a.m, 0, panel}, Block{0, row, panel, panels}, Block{row, a.m, panel, panels}}) {
      if (block.row_begin == block.row_end || block.panel_begin == block.panel_end) continue;
      Scratch scratch(ScratchBytes(a, block.row_end - block.row_begin));
      new (scratch.data()) ScratchHeader;
      multiply(a, block, scratch.data());
    }
  };
  if (integer) {
    a.y = sums.data();
    a.y_type = ElementType::kInt32;
    a.row_scale = row_scale.data();
    run_all();
    a.row_scale = nullptr;
  }
  const bool with_signs = a.activations == Activations::kBinary && !a.scale_x;
  if (with_signs) {
    a.y_signs = y_signs.data();
    a.threshold = p.threshold.data();
    run_all();
    a.y_signs = nullptr;
  }
  a.y_type = static_cast<ElementType>(Uniform(random, 0, 2));
  const bool narrow = a.y_type != ElementType::kFloat32;
  a.y = narrow ? static_cast<void*>(y16.data()) : y.data();
  run_all();
  for (size_t i = 0; narrow && i < y.size(); ++i) {
    y[i] = a.y_type == ElementType::kFloat16 ? HalfToFloat(y16[i]) : BFloatToFloat(y16[i]);
  }
  const std::string what = std::string(tier) + " m " + std::to_string(a.m) + " k " + std::to_string(a.k) + " n " + std::to_string(a.n) +
                           " " + kLevelsNames[static_cast<int>(a.levels)] + " " + kActivationsNames[static_cast<int>(a.activations)] +
                           (a.x_signs != nullptr ? " packed" : "") + (a.scale_x ? " scaled" : "") + " y type " +
                           std::to_string(static_cast<int>(a.y_type)) + " " + kActivationNames[static_cast<int>(a.activation)];
  std::vector<int> weights(static_cast<size_t>(a.k * a.n));
  for (int64_t i = 0; i < a.k; ++i) {
    for (int64_t c = 0; c < a.n; ++c) weights[static_cast<size_t>(i * a.n + c)] = p.Weight(i, c);
  }
  for (int64_t r = 0; r < a.m; ++r) {
    const float* row = p.x.values.data() + r * a.k;
    std::vector<int64_t> q(static_cast<size_t>(a.k));
    double x_scale = 1.0, x_scale_bound = 0.0;
    if (a.activations == Activations::kInt8) {
      const Quantized quantized = QuantizeReference(row, a.k, 0.0f);
      std::copy(quantized.q.begin(), quantized.q.end(), q.begin());
      x_scale = quantized.scale;
    } else if (integer) {
      double magnitudes = 0;
      for (int64_t i = 0; i < a.k; ++i) {
        q[static_cast<size_t>(i)] = row[i] < 0.0f ? -1 : 1;
        magnitudes += std::fabs(row[i]);
      }
      if (a.scale_x) {
        x_scale = a.k == 0 ? 0.0 : magnitudes / static_cast<double>(a.k);
        x_scale_bound = x_scale * 0x1p-23 * (2.0 + static_cast<double>(a.k) / 16);
      }
    }
    if (integer && a.n > 0) {
      EXPECT(std::fabs(x_scale - row_scale[static_cast<size_t>(r)]) <= x_scale_bound, "%s row %ld: scale %g, got %g", what.c_str(),
             static_cast<long>(r), x_scale, static_cast<double>(row_scale[static_cast<size_t>(r)]));
    }
    for (int64_t c = 0; c < a.n; ++c) {
      const auto at = static_cast<size_t>(r * a.n + c);
      double expected, size;
      if (integer) {
        int64_t sum = 0, row_sum = 0;
        for (int64_t i = 0; i < a.k; ++i) {
          sum += q[static_cast<size_t>(i)] * weights[static_cast<size_t>(i * a.n + c)];
          row_sum += q[static_cast<size_t>(i)];
        }
        EXPECT(sum == sums[at], "%s at %ld, %ld: %ld, got %d", what.c_str(), static_cast<long>(r), static_cast<long>(c),
               static_cast<long>(sum), sums[at]);
        if (with_signs) {
          const uint32_t bit = y_signs[static_cast<size_t>(r * SignWords(a.n) + c / 32)] >> (c % 32) & 1;
          EXPECT(bit == (sum >= p.threshold[static_cast<size_t>(c)]), "%s sign at %ld, %ld", what.c_str(), static_cast<long>(r), static_cast<long>(c));
        }
        const double parts[] = {static_cast<double>(a.scale[c]) * static_cast<double>(sum),
                                a.mean != nullptr ? static_cast<double>(a.mean[c]) * static_cast<double>(row_sum) : 0.0};
        expected = x_scale * (parts[0] + parts[1]);
        size = (x_scale + x_scale_bound * 0x1p21) * (std::fabs(parts[0]) + std::fabs(parts[1]));
      } else {
        double sum = 0, sum_size = 0, row_sum = 0, row_size = 0;
        for (int64_t i = 0; i < a.k; ++i) {
          const int weight = weights[static_cast<size_t>(i * a.n + c)];
          sum += static_cast<double>(row[i]) * weight;
          sum_size += std::fabs(static_cast<double>(row[i])) * std::max(1, std::abs(weight));  // a table adds what its other entries need
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
      EXPECT(IsActivated(a.activation, a.y_type, expected, bound, y[at]), "%s at %ld, %ld: %g, got %g", what.c_str(), static_cast<long>(r),
             static_cast<long>(c), expected, static_cast<double>(y[at]));
    }
    for (int64_t c = a.n; with_signs && c < SignWords(a.n) * 32; ++c) {
      EXPECT((y_signs[static_cast<size_t>(r * SignWords(a.n) + c / 32)] >> (c % 32) & 1) == 0, "%s sign beyond n", what.c_str());
    }
  }
}

// A NaN voids its row and no other, a negative zero counts as zero, whatever the activations; an infinity has a sign.
void TestSpecialRows(const Kernels& kernels, const char* tier) {
  const int64_t k = 37, n = 21, m = 5;
  Random random(1);
  for (const Activations activations : {Activations::kFloat, Activations::kInt8, Activations::kBinary}) {
    Problem p;
    do {
      p = MakeProblem(random, m, k, n);
    } while (p.args.x_type != ElementType::kFloat32 || p.args.x_stride != k || p.args.levels != Levels::kBinary || p.args.x_signs != nullptr);
    MatMulArgs a = p.args;
    a.activations = activations;
    a.activation = Activation::kLinear;
    a.scale_x = false;
    float* x = p.x.x32.data() + p.x.offset;
    for (int64_t i = 0; i < m * k; ++i) x[i] = static_cast<float>(i % 7) - 3.0f;
    x[2 * k + 5] = std::nanf("");
    std::fill(x + 3 * k, x + 4 * k, -0.0f);
    std::vector<float> y(m * n);
    a.y = y.data();
    a.y_stride = n;
    Scratch scratch(ScratchBytes(a, m));
    new (scratch.data()) ScratchHeader;
    kernels.multiply[0][static_cast<int>(activations)](a, {0, m, 0, 1}, scratch.data());
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        const float value = y[static_cast<size_t>(r * n + c)];
        EXPECT(std::isnan(value) == (r == 2), "%s %s row %ld: %g", tier, kActivationsNames[static_cast<int>(activations)], static_cast<long>(r),
               static_cast<double>(value));
      }
    }
    if (activations != Activations::kBinary) continue;
    double ones = 0;
    for (int64_t i = 0; i < k; ++i) ones += p.Weight(i, 0);
    const double expected = a.scale[0] * ones + (a.mean != nullptr ? a.mean[0] * static_cast<double>(k) : 0.0) + (a.bias != nullptr ? a.bias[0] : 0.0);
    EXPECT(std::fabs(y[3 * n] - expected) < 1e-4, "%s: negative zeros count as %g, not %g", tier, static_cast<double>(y[3 * n]), expected);
  }
}

// The largest sums that can occur: nothing saturates.
void TestExtremes(const Kernels& kernels, const char* tier) {
  const int64_t k = 70'001, n = 17, m = 18;
  for (const Activations activations : {Activations::kInt8, Activations::kBinary}) {
    for (const Levels levels : {Levels::kBinary, Levels::kTernary}) {
      if (activations == Activations::kBinary && levels == Levels::kTernary) continue;
      for (const uint8_t byte : {uint8_t{0}, uint8_t{255}}) {
        Problem p;
        MatMulArgs& a = p.args;
        a.m = m;
        a.k = a.x_stride = k;
        a.n = a.y_stride = n;
        a.levels = levels;
        a.activations = activations;
        const std::vector<float> x(static_cast<size_t>(m * k), -1.0f);
        p.kernel.assign(static_cast<size_t>(PackedBytes(levels, k, n)), byte);
        std::vector<int32_t> sums(static_cast<size_t>(m * n));
        a.x = x.data();
        a.kernel = p.kernel.data();
        a.y = sums.data();
        a.y_type = ElementType::kInt32;
        Scratch scratch(ScratchBytes(a, m));
        new (scratch.data()) ScratchHeader;
        kernels.multiply[static_cast<int>(levels)][static_cast<int>(activations)](a, {0, m, 0, 1}, scratch.data());
        const int64_t expected = -k * (activations == Activations::kInt8 ? 127 : 1) * p.Weight(0, 0);
        for (int32_t sum : sums) EXPECT(sum == expected, "%s extreme sum %ld, got %d", tier, static_cast<long>(expected), sum);
      }
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
    EXPECT(CheckMatMul(a).empty(), "%s", CheckMatMul(a).c_str());
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

int Main(int cases, uint64_t seed) {
  std::printf("binary_test: %d cases a tier, seed %lu\n", cases, static_cast<unsigned long>(seed));
  Random packing(seed);
  for (int i = 0; i < cases / 4; ++i) TestPack(packing, static_cast<Levels>(i % 2), Size(packing, 140), Size(packing, 140));
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
  Random random(seed);
  TestThreads(random, cases / 10);
  return Finish();
}

}  // namespace
}  // namespace tfcompress::binary

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 300;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : std::random_device{}();
  return tfcompress::binary::Main(cases, seed);
}
