// Runs every GPU kernel for weights of one and two bits in emulation, on every row of the tile tables, and compares with the CPU kernels: integer
// results and packed signs to the bit, float ones to a bound that follows from K. Usage: binary_cuda_test [cases] [seed]; binary_cuda_test faults.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda_testing.h"
#include "formats/binary/cuda_kernels.cuh"
#include "python/thread_pool.h"

namespace tfcompress::binary {
namespace {

using namespace tfcompress::testing;  // NOLINT(google-build-using-namespace)

// One multiplication: the same arguments for the CPU and, with copies of all arrays in device memory, for the GPU. Packed weights are random bytes:
// padding and undefined levels may hold anything.
struct Case {
  Case(Random& random, int64_t m, int64_t k, int64_t n, Activations activations, Levels levels) {
    std::normal_distribution<float> normal;
    x = MakeRows(random, m, k);
    a.m = m;
    a.k = k;
    a.n = n;
    a.x = x.data();
    a.x_type = x.type;
    a.x_stride = x.stride;
    a.activations = activations;
    a.levels = levels;
    a.activation = static_cast<Activation>(Uniform(random, 0, static_cast<int64_t>(Activation::kCount) - 1));
    kernel.resize(static_cast<size_t>(PackedBytes(levels, k, n)));
    for (uint8_t& byte : kernel) byte = static_cast<uint8_t>(Uniform(random, 0, 255));
    weights.resize(static_cast<size_t>(k * n));
    Unpack(levels, kernel.data(), k, n, weights.data());
    const auto vector = [&](std::vector<float>& v) {
      v.resize(static_cast<size_t>(n));
      for (float& f : v) f = normal(random);
    };
    vector(scale);
    if (OneIn(random, 2)) vector(mean);
    if (OneIn(random, 2)) vector(bias);
    a.kernel = kernel.data();
    a.scale = scale.data();
    a.mean = mean.empty() ? nullptr : mean.data();
    a.bias = bias.empty() ? nullptr : bias.data();
    if (activations == Activations::kBinary) {
      if (OneIn(random, 2)) {  // signs come packed, and what lies beyond k is anything
        signs.resize(static_cast<size_t>(m * SignWords(k)) + 1);
        for (uint32_t& word : signs) word = static_cast<uint32_t>(random());
        a.x_signs = signs.data();
      }
      if (OneIn(random, 2)) {
        threshold.resize(static_cast<size_t>(n) + 1);
        for (int32_t& t : threshold) t = static_cast<int32_t>(Uniform(random, -9, 9));
        threshold[0] = OneIn(random, 2) ? INT32_MIN : INT32_MAX;
        a.threshold = threshold.data();
      } else {
        a.scale_x = a.x_signs == nullptr && OneIn(random, 2);
      }
    }
    const bool raw = activations != Activations::kFloat && !a.scale_x && OneIn(random, 4);
    a.y_type = raw ? ElementType::kInt32 : static_cast<ElementType>(Uniform(random, 0, 2));
    a.y_stride = n + (OneIn(random, 2) ? 0 : Uniform(random, 0, 5));
  }

  int64_t YBytes() const {
    if (a.m == 0 || a.n == 0) return 0;
    if (a.threshold != nullptr) return a.m * SignWords(a.n) * 4;
    return ((a.m - 1) * a.y_stride + a.n) * (a.y_type == ElementType::kFloat32 || a.y_type == ElementType::kInt32 ? 4 : 2);
  }
  void SetY(MatMulArgs* args, void* y) const {
    args->y = a.threshold == nullptr ? y : nullptr;
    args->y_signs = a.threshold != nullptr ? static_cast<uint32_t*>(y) : nullptr;
  }
  std::string Name() const {
    return "m " + std::to_string(a.m) + " k " + std::to_string(a.k) + " n " + std::to_string(a.n) + " " + kLevelsNames[static_cast<int>(a.levels)] + " " +
           kActivationsNames[static_cast<int>(a.activations)] + " " + kActivationNames[static_cast<int>(a.activation)] + " x type " +
           std::to_string(static_cast<int>(a.x_type)) + " y type " + std::to_string(static_cast<int>(a.y_type)) + (a.x_signs != nullptr ? " signs" : "") +
           (a.threshold != nullptr ? " to signs" : "") + (a.scale_x ? " scaled" : "");
  }

  MatMulArgs a;
  Rows x;
  std::vector<uint32_t> signs;
  std::vector<int8_t> weights;
  std::vector<uint8_t> kernel;
  std::vector<float> scale, mean, bias;
  std::vector<int32_t> threshold;
};

float Load(const std::vector<char>& y, ElementType type, int64_t i) {
  if (type == ElementType::kFloat32) {
    float f;
    std::memcpy(&f, y.data() + i * 4, 4);
    return f;
  }
  uint16_t h;
  std::memcpy(&h, y.data() + i * 2, 2);
  return type == ElementType::kFloat16 ? HalfToFloat(h) : BFloatToFloat(h);
}

// Float activations, and binary ones whose rows are scaled by their mean magnitude: |y - exact| <= (k + 8) 2^-24 (row scale (sum |x w| |scale| + |mean|
// sum |x|) + |bias|), give or take the activation.
void CompareFloats(const Case& c, const std::vector<char>& y) {
  for (int64_t r = 0; r < c.a.m; ++r) {
    double row_scale = 1;
    const float* x = c.x.values.data() + r * c.a.k;
    if (c.a.scale_x) {
      row_scale = 0;
      for (int64_t i = 0; i < c.a.k; ++i) row_scale += std::fabs(static_cast<double>(x[i])) / static_cast<double>(c.a.k);
    }
    for (int64_t j = 0; j < c.a.n; ++j) {
      double sum = 0, magnitude = 0, row_sum = 0, row_magnitude = 0;
      for (int64_t i = 0; i < c.a.k; ++i) {
        const double w = c.weights[static_cast<size_t>(i * c.a.n + j)];
        const double v = c.a.scale_x ? (x[i] < 0 ? -1.0 : 1.0) : static_cast<double>(x[i]);
        sum += v * w;
        magnitude += std::fabs(v * w);
        row_sum += v;
        row_magnitude += std::fabs(v);
      }
      const double scale = c.scale[static_cast<size_t>(j)], mean = c.a.mean != nullptr ? c.mean[static_cast<size_t>(j)] : 0;
      const double bias = c.a.bias != nullptr ? c.bias[static_cast<size_t>(j)] : 0;
      const double expected = row_scale * (scale * sum + mean * row_sum) + bias;
      const double error = static_cast<double>(c.a.k + 8) * 0x1p-24 *
                           (row_scale * (std::fabs(scale) * magnitude + std::fabs(mean) * row_magnitude) + std::fabs(bias));
      const float actual = Load(y, c.a.y_type, r * c.a.y_stride + j);
      if (IsActivated(c.a.activation, c.a.y_type, expected, error, actual)) continue;
      EXPECT(false, "%s [%ld, %ld]: %g instead of %g +- %g before the activation", c.Name().c_str(), static_cast<long>(r), static_cast<long>(j),
             static_cast<double>(actual), expected, error);
      return;
    }
  }
}

// How a case is multiplied: as CudaMatMul plans it for a device, by the GEMV, or on a row of a table.
struct Way {
  const GemmTable* table = nullptr;
  GemmPlan plan;
  bool gemv = false;
};

// Whether all was right.
bool Run(Random& random, Case& c, const CudaDevice& device, const Way& way = {}) {
  const int before = failures;
  const bool integer = c.a.activations != Activations::kFloat;
  std::vector<char> expected(static_cast<size_t>(c.YBytes()), 0x77);
  std::vector<float> expected_scale(static_cast<size_t>(c.a.m), -1.0f);
  c.SetY(&c.a, expected.data());
  c.a.row_scale = integer ? expected_scale.data() : nullptr;
  if (integer) {
    SingleThread thread;
    Scratch scratch(WorkspaceBytes(c.a, 1));
    MatMul(c.a, scratch.data(), &thread);
  }

  MatMulArgs args = c.a;
  // Activations and outputs anywhere, also where no vector of four can be loaded.
  const size_t element = c.a.x_type == ElementType::kFloat32 ? 4 : 2;
  const int64_t x_elements = c.a.m == 0 || c.a.k == 0 || c.a.x_signs != nullptr ? 0 : (c.a.m - 1) * c.a.x_stride + c.a.k;
  DeviceArray<char> x(static_cast<size_t>(x_elements) * element, OneIn(random, 2) ? 0 : element);
  if (x_elements > 0) std::memcpy(x.data(), c.a.x, x.size());
  DeviceArray<uint32_t> signs(c.signs, OneIn(random, 2) ? 0 : 4);
  DeviceArray<uint8_t> kernel(c.kernel);
  DeviceArray<float> scale(c.scale), mean(c.mean), bias(c.bias);
  DeviceArray<int32_t> threshold(c.threshold);
  DeviceArray<char> y(expected.size(), OneIn(random, 2) ? 0 : 4);
  std::memset(y.data(), 0x77, y.size());
  DeviceArray<float> row_scale(expected_scale.size());
  args.x = x.data();
  args.x_signs = c.a.x_signs != nullptr ? signs.data() : nullptr;
  args.kernel = kernel.data();
  args.scale = scale.data();
  args.mean = c.a.mean != nullptr ? mean.data() : nullptr;
  args.bias = c.a.bias != nullptr ? bias.data() : nullptr;
  args.threshold = c.a.threshold != nullptr ? threshold.data() : nullptr;
  c.SetY(&args, y.data());
  args.row_scale = integer ? row_scale.data() : nullptr;
  EXPECT(CheckCudaMatMul(args).empty(), "%s", CheckCudaMatMul(args).c_str());

  std::string error;
  if (way.gemv) {
    error = LaunchGemv(MakeCudaProblem(args), args, PlanGemv(args, device), kStream);
  } else if (way.table != nullptr) {
    DeviceArray<char> workspace(static_cast<size_t>(LayOutGemm(args, *way.table, way.plan).bytes));
    error = PrepareAndLaunchGemm(args, *way.table, way.plan, workspace.data(), device, kStream);
  } else {
    DeviceArray<char> workspace(static_cast<size_t>(CudaWorkspaceBytes(args, device)));
    error = CudaMatMul(args, workspace.data(), device, kStream);
  }
  if (!error.empty()) {
    EXPECT(error.empty(), "%s: %s", c.Name().c_str(), error.c_str());
    return false;
  }
  const std::vector<char> actual = y.ToHost();
  for (size_t r = 0; integer && r < expected_scale.size() && c.a.n > 0; ++r) {
    // Mean magnitudes are added up in another order.
    const float slack = c.a.scale_x ? static_cast<float>(c.a.k + 1) * 0x1p-24f * expected_scale[r] : 0.0f;
    const float found = row_scale.data()[r];
    EXPECT(std::memcmp(&expected_scale[r], &found, 4) == 0 || std::fabs(found - expected_scale[r]) <= slack, "%s: scale of row %zu is %g instead of %g",
           c.Name().c_str(), r, static_cast<double>(found), static_cast<double>(expected_scale[r]));
  }
  if (!integer || c.a.scale_x) {
    CompareFloats(c, actual);
    return failures == before;
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    if (actual[i] == expected[i]) continue;
    EXPECT(false, "%s: byte %zu of y differs: %d instead of %d", c.Name().c_str(), i, actual[i], expected[i]);
    break;
  }
  return failures == before;
}

Way OnTile(const MatMulArgs& a, const GemmTable& table, int tile, int64_t splits) {
  const int64_t stages = GemmStagesOf(a, table);
  const GemmTile& t = table.tiles[tile];
  Way way;
  way.table = &table;
  way.plan = {tile, splits, DivideUp(stages, splits), DivideUp(a.m, t.rows) * DivideUp(a.n, t.columns) * splits};
  return way;
}

struct Kind {
  Activations activations;
  Levels levels;
};
constexpr Kind kKinds[] = {{Activations::kBinary, Levels::kBinary},
                           {Activations::kInt8, Levels::kBinary},
                           {Activations::kInt8, Levels::kTernary},
                           {Activations::kFloat, Levels::kBinary},
                           {Activations::kFloat, Levels::kTernary}};

// Every row of the tables: one tile, tails in every direction, several tiles with K split. Signs also as bytes.
void TestGemmTiles(Random& random) {
  for (const Kind& kind : kKinds) {
    if (kind.activations == Activations::kFloat) continue;
    for (const GemmTable* table : {&kSignsTable, &kBytesTables[static_cast<int>(kind.levels)]}) {
      if (table == &kSignsTable && kind.activations != Activations::kBinary) continue;
      const int64_t depth = table == &kSignsTable ? 512 : 64;
      for (int tile = 0; tile < table->count; ++tile) {
        const GemmTile& t = table->tiles[tile];
        struct Shape {
          int64_t m, k, n, splits;
        };
        const Shape shapes[] = {{t.rows, depth, t.columns, 1},
                                {1, 1, 1, 1},
                                {t.rows - 1, 3 * depth - 1, t.columns - 1, 1},
                                {t.rows + 1, 2 * depth + 33, t.columns + 17, 1},
                                {7, depth + 32, 33, 1},
                                {t.rows + 3, 5 * depth + 2, 49, 2},
                                {9, 4 * depth, 70, 2},
                                {5, 0, 20, 1}};
        for (const Shape& s : shapes) {
          Case c(random, s.m, s.k, s.n, kind.activations, kind.levels);
          if (!Run(random, c, DeviceWith(2), OnTile(c.a, *table, tile, s.splits))) std::printf("  with tile %d, %ld splits\n", tile, static_cast<long>(s.splits));
        }
      }
    }
  }
}

// Every number of rows of the GEMV; chunks of long rows; what CudaMatMul picks by itself, also for a device without 1-bit tensor cores.
void TestMatMul(Random& random, int64_t cases) {
  for (const Kind& kind : kKinds) {
    Way gemv;
    gemv.gemv = true;
    for (int64_t m = 1; m <= kGemvRows; ++m) {
      Case c(random, m, Size(random, 300), 1 + Size(random, 200), kind.activations, kind.levels);
      Run(random, c, DeviceWith(static_cast<int>(Uniform(random, 1, 8))), gemv);
    }
    for (const int64_t n : {130, 300}) {  // wide enough for blocks of 64 outputs on a small device
      Case c(random, 2, 40, n, kind.activations, kind.levels);
      Run(random, c, DeviceWith(1), gemv);
    }
    for (const int64_t m : {1, 3, 8}) {  // floats come in chunks
      const int64_t k = kind.activations == Activations::kFloat ? kGemvXBytes / GemvRows(m) / 4 * 2 + Uniform(random, 1, 70) : 2000;
      Case c(random, m, k, Uniform(random, 1, 40), kind.activations, kind.levels);
      Run(random, c, DeviceWith(1));
    }
    Case split(random, 20, 1100, 70, kind.activations, kind.levels), deep(random, 12, 8000, 40, kind.activations, kind.levels);
    Run(random, split, DeviceWith(60));
    Run(random, deep, DeviceWith(60));
    Case no_k(random, 3, 0, 21, kind.activations, kind.levels), no_k_more(random, 11, 0, 21, kind.activations, kind.levels);
    Run(random, no_k, DeviceWith(4));
    Run(random, no_k_more, DeviceWith(4));
  }
  // Longer than shared memory holds: the GEMM multiplies few rows too.
  for (const Kind& kind : kKinds) {
    if (kind.activations == Activations::kFloat) continue;
    Case c(random, 8, kind.activations == Activations::kBinary ? 16500 : 2100, 19, kind.activations, kind.levels);
    EXPECT(!UsesGemv(c.a, DeviceWith(4)), "%s", c.Name().c_str());
    Run(random, c, DeviceWith(4));
  }
  for (int64_t i = 0; i < cases; ++i) {
    const Kind& kind = kKinds[Uniform(random, 0, 4)];
    Case c(random, Size(random, 70), Size(random, 1200), Size(random, 150), kind.activations, kind.levels);
    CudaDevice device = DeviceWith(static_cast<int>(Uniform(random, 1, 40)));
    if (OneIn(random, 2)) device.compute_capability = 100;
    Run(random, c, device);
  }
}

// NaN and infinity in x.
void TestSpecialValues(Random& random) {
  for (const int64_t m : {3, 20}) {
    for (const Activations activations : {Activations::kBinary, Activations::kInt8}) {
      Case c(random, m, 70, 40, activations, Levels::kBinary);
      while (c.x.type != ElementType::kFloat32) c.x = MakeRows(random, m, 70);
      c.a.x = c.x.data();
      c.a.x_type = ElementType::kFloat32;
      c.a.x_stride = c.x.stride;
      c.a.x_signs = nullptr;
      c.a.scale_x = false;
      c.a.activation = Activation::kRelu;
      c.x.x32[static_cast<size_t>(c.x.offset + 5)] = NAN;
      c.x.x32[static_cast<size_t>(c.x.offset + c.x.stride + 69)] = INFINITY;
      c.x.x32[static_cast<size_t>(c.x.offset + 2 * c.x.stride + 1)] = -0.0f;
      Run(random, c, DeviceWith(4));
    }
  }
}

void TestDequantize(Random& random) {
  for (int i = 0; i < 16; ++i) {
    const int64_t k = Size(random, 100), n = Size(random, 140);
    Case c(random, 1, k, n, Activations::kInt8, static_cast<Levels>(i % 2));
    std::vector<float> expected(static_cast<size_t>(k * n), -1.0f);
    SingleThread thread;
    Dequantize(c.a.levels, c.kernel.data(), k, n, c.a.scale, c.a.mean, expected.data(), &thread);
    DeviceArray<uint8_t> kernel(c.kernel);
    DeviceArray<float> scale(c.scale), mean(c.mean), actual(expected.size());
    const std::string error =
        CudaDequantize(c.a.levels, kernel.data(), k, n, scale.data(), c.a.mean != nullptr ? mean.data() : nullptr, actual.data(), kStream);
    EXPECT(error.empty(), "%s", error.c_str());
    EXPECT(actual.ToHost() == expected, "unpacked weights differ for k %ld n %ld", static_cast<long>(k), static_cast<long>(n));
  }
}

void TestErrors(Random& random) {
  Case c(random, 3, 33, 9, Activations::kInt8, Levels::kBinary);
  DeviceArray<uint8_t> kernel(c.kernel, 4);
  MatMulArgs args = c.a;
  args.kernel = kernel.data();
  EXPECT(CheckCudaMatMul(args).find("kernel must be 16-byte aligned") == 0, "%s", CheckCudaMatMul(args).c_str());
  args.kernel = nullptr;
  args.k = kMaxInFeatures + 1;
  EXPECT(CheckCudaMatMul(args).find("in_features must be at most") == 0, "%s", CheckCudaMatMul(args).c_str());
}

// What is picked for real devices.
void TestPlans() {
  for (const GemmTable* table : {&kSignsTable, &kBytesTables[0], &kBytesTables[1]}) {
    for (int i = 0; i < table->count; ++i) {
      const GemmTile& tile = table->tiles[i];
      // 8.0 and 9.0 have 164 KiB of shared memory or more, of which a block takes 1 KiB for itself.
      for (const int capability : {80, 90}) {
        EXPECT(tile.blocks * (GemmSharedBytes(tile, table->words, capability) + 1024) <= 164 << 10, "%d x %d, %d blocks", tile.rows, tile.columns, tile.blocks);
      }
    }
  }
  const CudaDevice t4 = {75, 40, 64 << 10}, a100 = {80, 108, 163 << 10}, l4 = {89, 58, 99 << 10}, h100 = {90, 132, 227 << 10}, b200 = {100, 148, 227 << 10};
  for (const CudaDevice& device : {t4, a100, l4, h100, b200}) {
    MatMulArgs args;
    for (const Kind& kind : kKinds) {
      args.activations = kind.activations;
      args.levels = kind.levels;
      for (args.m = 1; args.m <= 9; ++args.m) {
        for (args.k = 1; args.k <= 1 << 20; args.k *= 8) {
          for (args.n = 1; args.n <= 1 << 15; args.n *= 8) {
            if (!UsesGemv(args, device)) continue;
            EXPECT(args.m <= kGemvRows && GemvSharedBytes(args, PlanGemv(args, device)) <= 48 << 10, "%ld rows", static_cast<long>(args.m));
          }
        }
      }
    }
    args.m = 1;
    args.k = args.n = 4096;
    args.activations = Activations::kBinary;
    args.levels = Levels::kBinary;
    const GemvPlan signs_plan = PlanGemv(args, device);
    EXPECT(UsesGemv(args, device) && 10 * signs_plan.blocks >= 9 * device.multiprocessors, "batch 1: every multiprocessor streams");
    EXPECT(signs_plan.columns == 64 || 5 * signs_plan.blocks < 9 * device.multiprocessors, "no more blocks than that: each takes the signs of x");
    args.activations = Activations::kFloat;
    EXPECT(PlanGemv(args, device).columns <= signs_plan.columns, "floats are not prepared, and shared out more evenly");
    args.activations = Activations::kBinary;
    uint32_t signs = 0;
    args.y_signs = &signs;
    EXPECT(PlanGemv(args, device).columns % kGemvSignsColumns == 0, "blocks own whole words of signs");
    args.y_signs = nullptr;
    args.m = 8;
    EXPECT(!UsesGemv(args, device), "tensor cores count the bits of 8 rows");
    args.k = args.n = 512;
    EXPECT(UsesGemv(args, device), "few weights: one launch");
    args.m = args.k = args.n = 4096;
    const GemmTable& table = TableOf(args, device);
    EXPECT((&table == &kSignsTable) == (device.compute_capability < 100), "signs as bits where tensor cores count them");
    const GemmPlan plan = PlanGemm(args, table, device);
    EXPECT(table.tiles[plan.tile].rows >= 64 && plan.splits == 1 && plan.stages == GemmStagesOf(args, table), "a large product: tile %d", plan.tile);
  }
}

// Short runs that pass every barrier and every wait of the kernels.
bool RunAllBarriers(uint64_t seed) {
  Random random(seed);
  emulation::runtime.random.seed(seed);
  for (const Kind& kind : kKinds) {
    Case small(random, 3, 1100, 40, kind.activations, kind.levels);
    if (!Run(random, small, DeviceWith(2))) return false;
    if (kind.activations == Activations::kFloat) {
      Case more(random, 20, 290, 70, kind.activations, kind.levels), chunks(random, 2, 5000, 17, kind.activations, kind.levels);
      for (Case* c : {&more, &chunks}) {
        if (!Run(random, *c, DeviceWith(2))) return false;
      }
      continue;
    }
    const bool signs = kind.activations == Activations::kBinary;
    for (const GemmTable* table : {&kSignsTable, &kBytesTables[static_cast<int>(kind.levels)]}) {
      if (table == &kSignsTable && !signs) continue;
      for (const int64_t k : {705, 6 * 512 + 5}) {
        Case c(random, 64, k, 130, kind.activations, kind.levels);
        if (!Run(random, c, DeviceWith(2), OnTile(c.a, *table, 1, 1))) return false;
      }
    }
  }
  return true;
}

void Test(Random& random, int64_t cases) {
  TestGemmTiles(random);
  TestMatMul(random, cases);
  TestSpecialValues(random);
  TestDequantize(random);
  TestErrors(random);
  TestPlans();
}

}  // namespace
}  // namespace tfcompress::binary

int main(int argc, char** argv) {
  using namespace tfcompress::binary;  // NOLINT(google-build-using-namespace)
  return tfcompress::testing::RunProgram(argc, argv, "csrc/", RunAllBarriers, Test);
}
