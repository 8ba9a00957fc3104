// Drives every sparse kernel over random matrices and compares it with plain loops: integer sums exactly, floats to a bound that follows from
// the number of stored weights. Usage:
//   sparse_test [cases] [seed]            every tier that this machine has, or all of them where AVX-512 is emulated
//   sparse_test fuzz [mutations] [seed]   see sparse_fuzz.cc
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "python/thread_pool.h"
#include "sparse_testing.h"

namespace tfcompress::sparse {
namespace {

using namespace tfcompress::testing;  // NOLINT(google-build-using-namespace)

constexpr Kind kKinds[] = {Kind::kRows, Kind::kColumns};
constexpr double kRounding = 0x1p-24;  // of one float32 operation, relative

// ---- Problems -----------------------------------------------------------------------------------------------------------------

// Weights [k, n] as they are packed: float, bfloat16 or int8, one after the other.
struct Weights {
  void Set(int64_t i, float value) {
    const auto bfloat = TruncateToBFloat(value);
    const auto int8 = static_cast<int8_t>(value);
    const void* from = type == Values::kFloat32 ? static_cast<const void*>(&value) : type == Values::kBFloat16 ? static_cast<const void*>(&bfloat) : &int8;
    std::memcpy(bytes.data() + i * ValueBytes(type), from, static_cast<size_t>(ValueBytes(type)));
  }
  float Get(int64_t i) const {
    float value;
    if (type == Values::kFloat32) {
      std::memcpy(&value, bytes.data() + i * 4, 4);
      return value;
    }
    uint16_t bits;
    if (type == Values::kInt8) return static_cast<float>(static_cast<int8_t>(bytes[static_cast<size_t>(i)]));
    std::memcpy(&bits, bytes.data() + i * 2, 2);
    return BFloatToFloat(bits);
  }

  Values type;
  std::vector<char> bytes;
};

enum Pattern { kSpread, kHalf, kDense, kEmpty, kFewOutputs, kEmptyOutputs, kFewInputs, kPatterns };

// Whether the weight of input i and output j may be other than zero. Outputs that differ in their number of weights get another order.
bool MayStay(Random& random, Pattern pattern, int64_t i, int64_t j) {
  switch (pattern) {
    case kSpread:
      return OneIn(random, 10);
    case kHalf:
      return OneIn(random, 2);
    case kDense:
      return true;
    case kEmpty:
      return false;
    case kFewOutputs:
      return j % 13 == 5;
    case kEmptyOutputs:
      return j % 2 == 1 && OneIn(random, 5);
    default:
      return i % 61 < 3;
  }
}

// Random weights, zeros of either sign between them.
Weights MakeWeights(Random& random, Values type, int64_t k, int64_t n, Pattern pattern) {
  Weights weights = {type, std::vector<char>(static_cast<size_t>(k * n * ValueBytes(type)))};
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < k * n; ++i) {
    float value = OneIn(random, 2) ? 0.0f : -0.0f;
    if (MayStay(random, pattern, i / n, i % n)) {
      const int64_t integer = Uniform(random, -128, 127);
      value = type != Values::kInt8 ? normal(random) : integer != 0 ? static_cast<float>(integer) : 1.0f;
    }
    weights.Set(i, value);
  }
  return weights;
}

struct Problem {
  MatMulArgs args;  // without y
  Rows x;
  Weights weights;
  Arrays arrays;
  std::vector<float> scale, bias;
  // Of each row and output the sum before scales and bias, and the sum of its terms' magnitudes.
  std::vector<double> sums, sizes;
  std::vector<double> rounded_sums;  // of activations that are rounded to bfloat16; bfloat16 values only
  std::vector<float> row_scales;  // int8 values only
  std::vector<int64_t> stored;    // weights of each output
};

// sums [m, n] of x [m, k] times weights [k, n].
void Multiply(const std::vector<double>& x, const std::vector<double>& weights, int64_t m, int64_t k, int64_t n, std::vector<double>* sums) {
  sums->assign(static_cast<size_t>(m * n), 0.0);
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t c = 0; c < n; ++c) (*sums)[r * n + c] += x[r * k + i] * weights[i * n + c];
    }
  }
}

void AddReference(Problem* p) {
  const MatMulArgs& a = p->args;
  const int64_t m = a.m, k = a.matrix.k, n = a.matrix.n;
  p->stored.assign(static_cast<size_t>(n), 0);
  std::vector<double> weights(static_cast<size_t>(k * n));
  for (int64_t i = 0; i < k * n; ++i) {
    weights[i] = p->weights.Get(i);
    p->stored[i % n] += weights[i] != 0;
  }
  std::vector<double> x(p->x.values.begin(), p->x.values.end());
  p->row_scales.assign(static_cast<size_t>(m), 1.0f);
  for (int64_t r = 0; p->weights.type == Values::kInt8 && r < m; ++r) {
    const float x_scale = a.activations == Activations::kStatic ? a.x_scale : 0.0f;
    const Quantized quantized = QuantizeReference(p->x.values.data() + r * k, k, x_scale);
    std::copy(quantized.q.begin(), quantized.q.end(), x.begin() + r * k);
    p->row_scales[r] = quantized.scale;
  }
  Multiply(x, weights, m, k, n, &p->sums);
  if (p->weights.type == Values::kBFloat16) {
    std::vector<double> rounded(x.size());
    for (size_t i = 0; i < x.size(); ++i) rounded[i] = BFloatToFloat(RoundToBFloat(p->x.values[i]));
    Multiply(rounded, weights, m, k, n, &p->rounded_sums);
  }
  for (double& v : x) v = std::fabs(v);
  for (double& w : weights) w = std::fabs(w);
  Multiply(x, weights, m, k, n, &p->sizes);
}

Problem MakeProblem(Random& random, const Flavour& flavour, int64_t m, int64_t k, int64_t n) {
  Problem p;
  std::normal_distribution<float> normal;
  p.x = MakeRows(random, m, k);
  p.weights = MakeWeights(random, flavour.values, k, n, static_cast<Pattern>(Uniform(random, 0, kPatterns - 1)));
  p.arrays = PackArrays(p.weights.bytes.data(), flavour, k, n);
  MatMulArgs& a = p.args;
  a.m = m;
  a.x = p.x.data();
  a.x_type = p.x.type;
  a.x_stride = p.x.stride;
  a.matrix = p.arrays.View();
  const auto vector = [&](std::vector<float>& v) {
    v.resize(static_cast<size_t>(n));
    for (float& f : v) f = normal(random);
    return v.data();
  };
  if (flavour.values == Values::kInt8) {
    a.scale = vector(p.scale);
    a.activations = static_cast<Activations>(Uniform(random, 0, 1));
    a.x_scale = 0.02f;
  }
  if (OneIn(random, 2)) a.bias = vector(p.bias);
  a.activation = static_cast<Activation>(Uniform(random, 0, static_cast<int64_t>(Activation::kCount) - 1));
  const std::string error = CheckMatMul(&a);
  EXPECT(error.empty(), "%s", error.c_str());
  AddReference(&p);
  return p;
}

std::string Describe(const MatMulArgs& a, const std::string& who) {
  return who + " m " + std::to_string(a.m) + " k " + std::to_string(a.matrix.k) + " n " + std::to_string(a.matrix.n) + " steps " +
         std::to_string(a.matrix.steps) + " " + kValuesNames[static_cast<int>(a.matrix.values_type)] + " reach " +
         std::to_string(a.matrix.reach) + " " + kActivationsNames[static_cast<int>(a.activations)] + " x type " +
         std::to_string(static_cast<int>(a.x_type)) + " y type " + std::to_string(static_cast<int>(a.y_type)) + " " +
         kActivationNames[static_cast<int>(a.activation)];
}

// ---- Outputs ------------------------------------------------------------------------------------------------------------------

// y [m, n], rows `stride` elements apart, full of NaNs (-1 as integers) at first. Nothing lies after the last row.
class Output {
 public:
  Output(MatMulArgs* args, ElementType type, int64_t gap) : n_(args->matrix.n), stride_(n_ + gap), type_(type) {
    const int64_t elements = args->m == 0 || n_ == 0 ? 0 : (args->m - 1) * stride_ + n_;
    y_.assign(static_cast<size_t>(elements * Bytes()), static_cast<char>(0xff));
    args->y = y_.data();
    args->y_type = type;
    args->y_stride = stride_;
  }

  float At(int64_t r, int64_t c) const {
    uint16_t half;
    if (Bytes() == 4) return As<float>(r, c);
    half = As<uint16_t>(r, c);
    return type_ == ElementType::kFloat16 ? HalfToFloat(half) : BFloatToFloat(half);
  }
  int32_t IntegerAt(int64_t r, int64_t c) const { return As<int32_t>(r, c); }

  // What lies between the rows was left alone.
  bool GapsAreUntouched() const {
    const int64_t elements = static_cast<int64_t>(y_.size()) / Bytes();
    for (int64_t i = 0; i < elements; ++i) {
      for (int64_t b = 0; i % stride_ >= n_ && b < Bytes(); ++b) {
        if (y_[static_cast<size_t>(i * Bytes() + b)] != static_cast<char>(0xff)) return false;
      }
    }
    return true;
  }

 private:
  int64_t Bytes() const { return type_ == ElementType::kFloat32 || type_ == ElementType::kInt32 ? 4 : 2; }
  template <typename T>
  T As(int64_t r, int64_t c) const {
    T value;
    std::memcpy(&value, y_.data() + (r * stride_ + c) * Bytes(), sizeof(T));
    return value;
  }

  int64_t n_, stride_;
  ElementType type_;
  std::vector<char> y_;
};

void CheckSums(const Problem& p, const MatMulArgs& a, const Output& y, const std::vector<float>& row_scales, const std::string& who) {
  const std::string what = Describe(a, who);
  for (int64_t r = 0; r < a.m; ++r) {
    if (a.matrix.n > 0) EXPECT(row_scales[r] == p.row_scales[r], "%s row %ld", what.c_str(), static_cast<long>(r));
    for (int64_t c = 0; c < a.matrix.n; ++c) {
      const auto expected = static_cast<int64_t>(p.sums[r * a.matrix.n + c]);
      EXPECT(y.IntegerAt(r, c) == expected, "%s at %ld, %ld: %ld, got %d", what.c_str(), static_cast<long>(r), static_cast<long>(c),
             static_cast<long>(expected), y.IntegerAt(r, c));
    }
  }
  EXPECT(y.GapsAreUntouched(), "%s", what.c_str());
}

// Whether a kernel may round activations to bfloat16.
bool MayRound(const Kernels& kernels, Kind kind) {
  return kind == Kind::kRows && std::strstr(kernels.rows_step[static_cast<int>(Values::kBFloat16)], "vdpbf16ps") != nullptr;
}

// A float sum of s products is off by at most s + 1 roundings of the sum of their magnitudes, whatever the order; scales and bias add a few.
// vdpbf16ps takes what is below the smallest normal float as 0.
void CheckOutput(const Problem& p, const MatMulArgs& a, const Output& y, bool may_round, const std::string& who) {
  const std::string what = Describe(a, who);
  const int64_t n = a.matrix.n;
  const bool is_int8 = a.matrix.values_type == Values::kInt8;
  for (int64_t r = 0; r < a.m; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      const double scale = is_int8 ? static_cast<double>(p.row_scales[r]) * a.scale[c] : 1.0, bias = a.bias != nullptr ? a.bias[c] : 0.0;
      const double size = is_int8 ? std::fabs(scale * p.sums[r * n + c]) : p.sizes[r * n + c] * (1 + 0x1p-8);
      const double roundings = is_int8 ? 6 : static_cast<double>(p.stored[c]) + 6;
      const double error = roundings * (kRounding * (size + std::fabs(bias)) + 1.2e-38);
      const auto is = [&](const std::vector<double>& sums) {
        return IsActivated(a.activation, a.y_type, sums[r * n + c] * scale + bias, error, y.At(r, c));
      };
      EXPECT(is(p.sums) || (may_round && !p.rounded_sums.empty() && is(p.rounded_sums)), "%s at %ld, %ld: activation of %g, got %g", what.c_str(),
             static_cast<long>(r), static_cast<long>(c), p.sums[r * n + c] * scale + bias, static_cast<double>(y.At(r, c)));
    }
  }
  EXPECT(y.GapsAreUntouched(), "%s", what.c_str());
}

// ---- Kernels ------------------------------------------------------------------------------------------------------------------

// One case on one tier: both kinds of kernel on a random cut of the output.
void RunCase(const Kernels& kernels, const std::string& tier, const Problem& p, Random& random) {
  MatMulArgs a = p.args;
  const int64_t panels = NumPanels(a.matrix.n);
  const int64_t row = Uniform(random, 0, a.m), panel = Uniform(random, 0, panels);
  const std::vector<Block> blocks = {{0, row, 0, panel}, {0, row, panel, panels}, {row, a.m, panel, panels}, {row, a.m, 0, panel}};
  for (const Kind kind : kKinds) {
    const std::string who = tier + (kind == Kind::kRows ? " rows" : " columns");
    if (a.matrix.values_type == Values::kInt8) {
      std::vector<float> row_scales(static_cast<size_t>(a.m), -1.0f);
      a.row_scale = row_scales.data();
      const Output sums(&a, ElementType::kInt32, Uniform(random, 0, 2));
      Compute(kernels, kind, a, blocks);
      CheckSums(p, a, sums, row_scales, who);
      a.row_scale = nullptr;
    }
    const Output y(&a, static_cast<ElementType>(Uniform(random, 0, 2)), Uniform(random, 0, 2));
    Compute(kernels, kind, a, blocks);
    CheckOutput(p, a, y, MayRound(kernels, kind), who);
  }
}

constexpr int64_t kBatches[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 18, 19, 31, 32, 33, 63, 64, 65, 130};

// Most matrices are small. Some are deeper than what kernels multiply at a time, some wider.
void RunCases(const Kernels& kernels, const std::string& tier, int cases, Random& random) {
  for (int i = 0; i < cases; ++i) {
    const Flavour& flavour = kFlavours[i % std::size(kFlavours)];
    int64_t m = kBatches[Uniform(random, 0, static_cast<int64_t>(std::size(kBatches)) - 1)];
    int64_t k = Size(random, 140), n = Size(random, 140);
    if (i / 4 % 16 == 1) k = Size(random, 2100);
    if (i / 4 % 16 == 2) n = Uniform(random, 1000, 1200);
    if (k > 140 || n > 140) m = std::min<int64_t>(m, 33);
    RunCase(kernels, tier, MakeProblem(random, flavour, m, k, n), random);
  }
}

// NaN, infinity and zero rows have defined results with int8 values. With float values they void outputs of their row: all those that
// multiply them. No other row changes.
void TestSpecialRows(const Kernels& kernels, const char* tier) {
  constexpr int64_t k = 67, m = 5, poisoned_k = 5;
  Random random(1);
  for (const Flavour& flavour : kFlavours) {
    for (const Activations activations : {Activations::kDynamic, Activations::kStatic}) {
      for (const float poison : {std::nanf(""), INFINITY, -INFINITY}) {
        Problem p;
        do {
          p = MakeProblem(random, flavour, m, k, 21);
        } while (p.x.type != ElementType::kFloat32 || p.x.stride != k || p.arrays.windows.empty());
        const bool is_int8 = flavour.values == Values::kInt8;
        MatMulArgs a = p.args;
        a.activation = Activation::kLinear;
        a.activations = is_int8 ? activations : Activations::kDynamic;
        const bool void_row = is_int8 && (a.activations == Activations::kDynamic || std::isnan(poison));
        for (const Kind kind : kKinds) {
          float* x = p.x.x32.data() + p.x.offset;
          std::fill(x + 3 * k, x + 4 * k, 0.0f);
          x[2 * k + poisoned_k] = 1.0f;
          const Output healthy(&a, ElementType::kFloat32, 0);
          Compute(kernels, kind, a, {{0, m, 0, 2}});
          x[2 * k + poisoned_k] = poison;
          const Output y(&a, ElementType::kFloat32, 0);
          Compute(kernels, kind, a, {{0, m, 0, 2}});
          for (int64_t r = 0; r < m; ++r) {
            for (int64_t c = 0; c < a.matrix.n; ++c) {
              const float value = y.At(r, c);
              const std::string what = Describe(a, tier) + " row " + std::to_string(r) + ": " + std::to_string(value);
              if (r == 3) EXPECT(value == (a.bias != nullptr ? a.bias[c] : 0.0f), "%s", what.c_str());
              if (r != 2) {
                EXPECT(value == healthy.At(r, c), "%s", what.c_str());
              } else if (is_int8) {
                EXPECT(std::isnan(value) == void_row, "%s", what.c_str());
              } else if (p.weights.Get(poisoned_k * a.matrix.n + c) != 0.0f) {
                EXPECT(!std::isfinite(value), "%s", what.c_str());
              }
            }
          }
        }
      }
    }
  }
}

// The largest sums that can occur: nothing saturates.
void TestExtremes(const Kernels& kernels, const char* tier) {
  const int64_t k = MostInFeatures(Values::kInt8), n = 17;
  std::vector<int8_t> weights(static_cast<size_t>(k * n));
  for (int64_t i = 0; i < k * n; ++i) weights[i] = i % n % 2 == 0 ? 127 : -128;
  for (const Flavour& flavour : kFlavours) {
    if (flavour.values != Values::kInt8) continue;
    const Arrays arrays = PackArrays(weights.data(), flavour, k, n);
    for (const float sign : {1.0f, -1.0f}) {
      const std::vector<float> x(static_cast<size_t>(k), sign);
      MatMulArgs a;
      a.m = 1;
      a.x = x.data();
      a.x_stride = k;
      a.matrix = arrays.View();
      const Output sums(&a, ElementType::kInt32, 0);
      EXPECT(CheckMatMul(&a).empty(), "%s", tier);
      for (const Kind kind : kKinds) {
        Compute(kernels, kind, a, {{0, 1, 0, 2}});
        for (int64_t c = 0; c < n; ++c) {
          const int64_t expected = k * 127 * (c % 2 == 0 ? 127 : -128) * static_cast<int64_t>(sign);
          EXPECT(sums.IntegerAt(0, c) == expected, "%s extreme sum %ld, got %d", tier, static_cast<long>(expected), sums.IntegerAt(0, c));
        }
      }
    }
  }
}

// As many inputs as float windows can number.
void TestMostInputs(const Kernels& kernels, const char* tier) {
  const int64_t k = MostInFeatures(Values::kFloat32), n = 3, m = 2;
  Random random(2);
  std::vector<float> x(static_cast<size_t>(m * k));
  for (float& v : x) v = static_cast<float>(Uniform(random, -9, 9));
  Weights weights = {Values::kFloat32, std::vector<char>(static_cast<size_t>(k * n * 4))};
  std::vector<float> expected(static_cast<size_t>(m * n));
  for (int64_t i : {int64_t{0}, int64_t{65535}, int64_t{65536}, int64_t{777777}, k - 64, k - 17, k - 1}) {
    for (int64_t c = 0; c < n; ++c) {
      const auto weight = static_cast<float>(Uniform(random, 1, 9));
      weights.Set(i * n + c, weight);
      for (int64_t r = 0; r < m; ++r) expected[r * n + c] += weight * x[r * k + i];  // small integers: exact
    }
  }
  const Arrays arrays = PackArrays(weights.bytes.data(), kFlavours[0], k, n);
  EXPECT(arrays.windows.back() == kMostWindows - 1, "the last window is %d", arrays.windows.back());
  MatMulArgs a;
  a.m = m;
  a.x = x.data();
  a.x_stride = k;
  a.matrix = arrays.View();
  const std::string error = CheckMatMul(&a);
  EXPECT(error.empty(), "%s", error.c_str());
  for (const Kind kind : kKinds) {
    const Output y(&a, ElementType::kFloat32, 0);
    Compute(kernels, kind, a, {{0, m, 0, 1}});
    for (int64_t i = 0; i < m * n; ++i) {
      EXPECT(y.At(i / n, i % n) == expected[i], "%s: %g, got %g", tier, static_cast<double>(expected[i]),
             static_cast<double>(y.At(i / n, i % n)));
    }
  }
}

// ---- Packing, gradients, checks -----------------------------------------------------------------------------------------------

// Unpack is the exact inverse of Pack, but for the sign of zeros; places hold what the header says.
void TestPack(const Problem& p) {
  const Arrays& arrays = p.arrays;
  const Matrix& matrix = p.args.matrix;
  std::vector<char> unpacked(p.weights.bytes.size(), 99);
  Unpack(matrix, unpacked.data());
  Weights expected = p.weights;
  for (int64_t i = 0; i < matrix.k * matrix.n; ++i) {
    if (expected.Get(i) == 0.0f) expected.Set(i, 0.0f);
  }
  EXPECT(unpacked == expected.bytes, "%s", Describe(p.args, "unpack").c_str());

  const int64_t entries = StepEntries(matrix.values_type);
  const Weights values = {matrix.values_type, arrays.values};
  int64_t stored = 0;
  for (int64_t at = 0; at < matrix.steps * entries; ++at) {
    const bool empty = arrays.indices[at] == kPadding;
    EXPECT(empty ? values.Get(at) == 0.0f : arrays.indices[at] < matrix.reach && values.Get(at) != 0.0f, "%s",
           Describe(p.args, "place").c_str());
    stored += !empty;
  }
  int64_t nonzeros = 0;
  for (const int64_t count : p.stored) nonzeros += count;
  EXPECT(stored == nonzeros, "%s: %ld of %ld", Describe(p.args, "places").c_str(), static_cast<long>(stored), static_cast<long>(nonzeros));
  for (int64_t panel = 0; panel < NumPanels(matrix.n); ++panel) {
    for (int64_t s = matrix.panels[panel] + 1; s < matrix.panels[panel + 1]; ++s) {
      EXPECT(matrix.windows[s - 1] <= matrix.windows[s], "%s", Describe(p.args, "windows").c_str());
    }
  }
}

// One array of bytes says the same as its parts.
void TestStructure(const Problem& p) {
  const Arrays& arrays = p.arrays;
  const std::vector<uint8_t> structure = StructureOf(arrays);
  const auto bytes = static_cast<int64_t>(structure.size());
  EXPECT(bytes == StructureBytes(arrays.flavour.values, p.args.matrix.steps, arrays.n), "%s", Describe(p.args, "structure").c_str());
  Matrix matrix = arrays.View();
  matrix.n = -7;
  const std::string error = SetStructure(structure.data(), bytes, &matrix);
  EXPECT(error.empty() && matrix.n == arrays.n, "%s", error.c_str());
  EXPECT(std::equal(arrays.windows.begin(), arrays.windows.end(), matrix.windows), "windows");
  EXPECT(std::equal(arrays.indices.begin(), arrays.indices.end(), matrix.indices), "indices");
  EXPECT(std::equal(arrays.panels.begin(), arrays.panels.end(), matrix.panels), "panels");
  EXPECT(std::equal(arrays.order.begin(), arrays.order.end(), matrix.order), "order");
  matrix.k += 1;
  EXPECT(SetStructure(structure.data(), bytes, &matrix).find("in_features must be") == 0, "k");
  // Of every size, at most one n fits.
  const int64_t least = StructureBytes(arrays.flavour.values, p.args.matrix.steps, 0);
  for (int64_t size = std::max<int64_t>(0, bytes - 99), n = 0; size < bytes + 99; ++size) {
    while (StructureBytes(arrays.flavour.values, p.args.matrix.steps, n) < size) ++n;
    const bool fits = size >= least && StructureBytes(arrays.flavour.values, p.args.matrix.steps, n) == size;
    EXPECT(OutFeatures(arrays.flavour.values, p.args.matrix.steps, size) == (fits ? n : -1), "%ld bytes", static_cast<long>(size));
  }
}

void TestDequantize(const Problem& p, ThreadPool* pool) {
  const Matrix& matrix = p.args.matrix;
  for (const float* scale : {p.args.scale, static_cast<const float*>(nullptr)}) {
    std::vector<float> weights(static_cast<size_t>(matrix.k * matrix.n), NAN);
    Dequantize(matrix, scale, weights.data(), pool);
    for (int64_t i = 0; i < matrix.k * matrix.n; ++i) {
      const float expected = p.weights.Get(i) * (scale != nullptr ? scale[i % matrix.n] : 1.0f);
      EXPECT(weights[i] == expected, "%s: %g, got %g", Describe(p.args, "dequantize").c_str(), static_cast<double>(expected),
             static_cast<double>(weights[i]));
    }
  }
}

void TestValuesGradient(const Problem& p, Random& random, ThreadPool* pool) {
  const Matrix& matrix = p.args.matrix;
  if (matrix.values_type != Values::kFloat32) return;
  const int64_t m = p.args.m, k = matrix.k, n = matrix.n;
  std::normal_distribution<float> normal;
  std::vector<float> dz(static_cast<size_t>(m * n));
  for (float& v : dz) v = normal(random);
  std::vector<float> gradient(p.arrays.indices.size(), NAN);
  ValuesGradient(matrix, p.x.values.data(), dz.data(), m, gradient.data(), pool);
  for (int64_t panel = 0; panel < NumPanels(n); ++panel) {
    for (int64_t at = matrix.panels[panel] * kLanes; at < matrix.panels[panel + 1] * kLanes; ++at) {
      double expected = 0, size = 0;
      if (matrix.indices[at] != kPadding) {
        const int64_t i = matrix.windows[at / kLanes] * Stride(matrix.values_type) + matrix.indices[at];
        const int64_t c = matrix.order[panel * kLanes + at % kLanes];
        for (int64_t r = 0; r < m; ++r) {
          const double term = static_cast<double>(p.x.values[r * k + i]) * dz[r * n + c];
          expected += term;
          size += std::fabs(term);
        }
      }
      EXPECT(std::fabs(gradient[at] - expected) <= static_cast<double>(m + 20) * kRounding * size + 1e-37, "%s: %g, got %g",
             Describe(p.args, "gradient").c_str(), expected, static_cast<double>(gradient[at]));
    }
  }
}

void TestArrays(Random& random, int cases) {
  SingleThread one;
  WorkerThreads several(3);
  for (int i = 0; i < cases; ++i) {
    const Problem p = MakeProblem(random, kFlavours[i % std::size(kFlavours)], Size(random, 140), Size(random, 200), Size(random, 140));
    ThreadPool* pool = i / 4 % 2 == 0 ? static_cast<ThreadPool*>(&one) : &several;
    TestPack(p);
    TestStructure(p);
    TestDequantize(p, pool);
    TestValuesGradient(p, random, pool);
  }
}

// Every field that can be wrong is found out, by name.
// What is wrong is found at every place, in whole vectors and in tails.
void TestFindings(Random& random, const Kernels& kernels) {
  for (const Flavour& flavour : kFlavours) {
    const int64_t n = 605;
    const Weights weights = MakeWeights(random, flavour.values, 150, n, kHalf);
    Arrays arrays = PackArrays(weights.bytes.data(), flavour, 150, n);
    for (int64_t j = 0; j < n; ++j) arrays.order[static_cast<size_t>(j)] = static_cast<int32_t>(j);
    const auto find = [&] { return kernels.inspect(arrays.View()); };
    const auto spoil = [&](auto* value, int64_t spoilt, const auto& found) {
      const auto sound = *value;
      *value = static_cast<std::remove_pointer_t<decltype(value)>>(spoilt);
      EXPECT(found(find()), "a spoilt value was not found");
      *value = sound;
    };
    const uint16_t last_window = *std::max_element(arrays.windows.begin(), arrays.windows.end());
    EXPECT(find().last_window == last_window && find().panels_ascend && find().in_order, "nothing is wrong");
    for (uint16_t& window : arrays.windows) spoil(&window, 65535, [](const Findings& f) { return f.last_window == 65535; });
    for (int32_t& panel : arrays.panels) {
      const bool first = &panel == arrays.panels.data();
      spoil(&panel, first ? arrays.panels[1] + 1 : *(&panel - 1) - 1, [](const Findings& f) { return !f.panels_ascend; });
    }
    for (int32_t& output : arrays.order) spoil(&output, output ^ 1024, [](const Findings& f) { return !f.in_order; });
  }
}

void TestChecks() {
  struct Case {
    const char* message;
    std::function<void(Arrays*, Matrix*)> spoil;
  };
  const auto set = [](auto member, int64_t value) { return [member, value](Arrays*, Matrix* a) { a->*member = value; }; };
  const Case cases[] = {
      {"in_features must be from 0", set(&Matrix::k, -1)},
      {"in_features must be from 0", [](Arrays*, Matrix* a) { a->k = MostInFeatures(a->values_type) + 1; }},
      {"out_features >= 0", set(&Matrix::n, -1)},
      {"reach must be 64", set(&Matrix::reach, 0)},
      {"reach must be 64", set(&Matrix::reach, -64)},
      {"reach must be 64", set(&Matrix::reach, 65)},
      {"reach must be 64", set(&Matrix::reach, 256)},
      {"panels must ascend", set(&Matrix::steps, 0)},
      {"panels must ascend", [](Arrays* b, Matrix*) { b->panels[0] = 1; }},
      {"panels must ascend", [](Arrays* b, Matrix*) { b->panels[0] = -1; }},
      {"panels must ascend", [](Arrays* b, Matrix*) { b->panels[1] = b->panels[2] + 1; }},
      {"panels must ascend", [](Arrays* b, Matrix*) { b->panels[1] = std::numeric_limits<int32_t>::min(); }},
      {"panels must ascend", [](Arrays* b, Matrix*) { b->panels.back() -= 1; }},
      {"panels must ascend", [](Arrays* b, Matrix*) { b->panels.back() += 1; }},
      {"windows must be below", [](Arrays* b, Matrix*) { b->windows[0] = 65535; }},
      {"windows must be below", [](Arrays* b, Matrix* a) { b->windows.back() = static_cast<uint16_t>(NumWindows(a->values_type, a->k)); }},
      {"there must be no steps", [](Arrays* b, Matrix* a) {
         a->k = 0;
         std::fill(b->windows.begin(), b->windows.end(), uint16_t{0});
       }},
      {"order must hold", [](Arrays* b, Matrix*) { b->order[0] = b->order[1]; }},
      {"order must hold", [](Arrays* b, Matrix*) { b->order[3] = -1; }},
      {"order must hold", [](Arrays* b, Matrix*) { b->order.back() = 40; }},
      {"order must hold", [](Arrays* b, Matrix*) { b->order.back() = std::numeric_limits<int32_t>::max(); }},
  };
  Random random(3);
  for (const Flavour& flavour : kFlavours) {
    for (const Pattern pattern : {kHalf, kFewOutputs}) {
      const Weights weights = MakeWeights(random, flavour.values, 150, 40, pattern);
      const Arrays arrays = PackArrays(weights.bytes.data(), flavour, 150, 40);
      Matrix matrix = arrays.View();
      const bool in_order = std::is_sorted(arrays.order.begin(), arrays.order.end());
      matrix.in_order = !in_order;
      EXPECT(CheckMatrix(&matrix).empty() && matrix.in_order == in_order, "order");
      EXPECT(pattern != kFewOutputs || !in_order, "outputs of like fill must share panels");
      for (const Case& c : cases) {
        Arrays spoilt = arrays;
        matrix = spoilt.View();
        c.spoil(&spoilt, &matrix);
        const std::string error = CheckMatrix(&matrix);
        EXPECT(error.find(c.message) != std::string::npos, "%s expected, got %s", c.message, error.c_str());
      }
      matrix = arrays.View();
      matrix.reach = 128;
      EXPECT(CheckMatrix(&matrix).empty() == (flavour.values == Values::kInt8), "reach 128");
    }
  }
}

void TestCheckMatMul() {
  struct Case {
    const char* message;  // null: accepted
    std::function<void(MatMulArgs*)> change;
  };
  const float one[40] = {};
  float scales[4];
  const auto x_scale = [](float value) {
    return [value](MatMulArgs* a) {
      a->activations = Activations::kStatic;
      a->x_scale = value;
    };
  };
  const Case for_all[] = {{nullptr, [](MatMulArgs*) {}}, {"m must be >= 0", [](MatMulArgs* a) { a->m = -1; }}};
  const Case for_floats[] = {{"only with int8 values", [](MatMulArgs* a) { a->y_type = ElementType::kInt32; }},
                             {"only with int8 values", [&](MatMulArgs* a) { a->scale = one; }},
                             {"only with int8 values", [&](MatMulArgs* a) { a->row_scale = scales; }}};
  const Case for_int8[] = {{"x_scale must be", x_scale(0.0f)},     {"x_scale must be", x_scale(-1.0f)},   {"x_scale must be", x_scale(NAN)},
                           {"x_scale must be", x_scale(INFINITY)}, {"x_scale must be", x_scale(1e-40f)}, {nullptr, x_scale(1e-3f)},
                           {nullptr, [](MatMulArgs* a) { a->y_type = ElementType::kInt32; }}};
  Random random(4);
  for (const Flavour& flavour : kFlavours) {
    const Weights weights = MakeWeights(random, flavour.values, 30, 40, kHalf);
    const Arrays arrays = PackArrays(weights.bytes.data(), flavour, 30, 40);
    const auto run = [&](const Case& c) {
      MatMulArgs a;
      a.m = 4;
      a.matrix = arrays.View();
      c.change(&a);
      const std::string error = CheckMatMul(&a);
      EXPECT(c.message == nullptr ? error.empty() : error.find(c.message) != std::string::npos, "got %s", error.c_str());
    };
    for (const Case& c : for_all) run(c);
    if (flavour.values == Values::kInt8) {
      for (const Case& c : for_int8) run(c);
    } else {
      for (const Case& c : for_floats) run(c);
    }
  }
}

// The public entry: the planner's blocks cover the output exactly, whatever the number of threads.
void TestThreads(Random& random, int cases) {
  SingleThread one;
  WorkerThreads several(3);
  for (int i = 0; i < cases; ++i) {
    const int64_t n = OneIn(random, 8) ? Uniform(random, 1000, 2000) : Size(random, 700);
    const Problem p = MakeProblem(random, kFlavours[i % std::size(kFlavours)], Size(random, 200), Size(random, 200), n);
    for (ThreadPool* pool : {static_cast<ThreadPool*>(&one), static_cast<ThreadPool*>(&several)}) {
      MatMulArgs a = p.args;
      const std::string who = "MatMul, threads " + std::to_string(pool->NumThreads());
      const auto run = [&] {
        Scratch workspace(WorkspaceBytes(a, pool->NumThreads()));
        MatMul(a, workspace.data(), pool);
      };
      if (a.matrix.values_type == Values::kInt8) {
        std::vector<float> row_scales(static_cast<size_t>(a.m), -1.0f);
        a.row_scale = row_scales.data();
        const Output sums(&a, ElementType::kInt32, 0);
        run();
        CheckSums(p, a, sums, row_scales, who);
        a.row_scale = nullptr;
      }
      const Output y(&a, ElementType::kFloat32, Uniform(random, 0, 1));
      run();
      CheckOutput(p, a, y, MayRound(KernelsFor(ActiveTier()), Kind::kRows), who);
    }
  }
}

int Main(int cases, uint64_t seed) {
  std::printf("sparse_test: %d cases a tier, seed %lu\n", cases, static_cast<unsigned long>(seed));
  for (const Tier tier : DistinctTiers(KernelsFor)) {
    const Kernels& kernels = KernelsFor(tier);
    const char* name = kTierNames[static_cast<int>(tier)];
    Random random(seed);
    RunCases(kernels, name, cases, random);
    TestFindings(random, kernels);
    TestSpecialRows(kernels, name);
    TestExtremes(kernels, name);
    TestMostInputs(kernels, name);
    std::printf("%s: %d failures\n", name, failures);
  }
  Random random(seed);
  TestArrays(random, cases / 2);
  TestThreads(random, cases / 10);
  TestChecks();
  TestCheckMatMul();
  return Finish();
}

}  // namespace
}  // namespace tfcompress::sparse

int main(int argc, char** argv) {
  const bool fuzz = argc > 1 && std::strcmp(argv[1], "fuzz") == 0;
  const int first = fuzz ? 2 : 1;
  const int count = argc > first ? std::atoi(argv[first]) : fuzz ? 100'000 : 400;
  const uint64_t seed = argc > first + 1 ? std::strtoull(argv[first + 1], nullptr, 10) : std::random_device{}();
  if (!fuzz) return tfcompress::sparse::Main(count, seed);
  tfcompress::sparse::Fuzz(count, seed);
  return tfcompress::testing::Finish();
}
