// Runs every int8 GPU kernel in emulation, on every row of the tile table, and compares with the CPU kernels: integer results to the bit, float
// ones to a bound that follows from K. Usage: int8_cuda_test [cases] [seed]; int8_cuda_test faults.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda_testing.h"
#include "formats/int8/cuda_kernels.cuh"
#include "python/thread_pool.h"

namespace tfcompress::int8 {
namespace {

using namespace tfcompress::testing;  // NOLINT(google-build-using-namespace)

// One multiplication: the same arguments for the CPU and, with copies of all arrays in device memory, for the GPU.
struct Case {
  Case(Random& random, int64_t m, int64_t k, int64_t n, Activations activations) {
    std::normal_distribution<float> normal;
    x = MakeRows(random, m, k);
    a.m = m;
    a.k = k;
    a.n = n;
    a.x = x.data();
    a.x_type = x.type;
    a.x_stride = x.stride;
    a.activations = activations;
    a.x_scale = 0.02f;
    a.activation = static_cast<Activation>(Uniform(random, 0, static_cast<int64_t>(Activation::kCount) - 1));
    weights.resize(static_cast<size_t>(k * n));
    for (int8_t& w : weights) w = static_cast<int8_t>(Uniform(random, -128, 127));
    kernel.resize(static_cast<size_t>(PackedBytes(k, n)));
    for (uint8_t& byte : kernel) byte = static_cast<uint8_t>(Uniform(random, 0, 255));  // padding may hold anything
    std::vector<uint8_t> packed(kernel.size()), ones(kernel.size());
    std::vector<int8_t> one(weights.size(), 1);
    Pack(weights.data(), k, n, packed.data());
    Pack(one.data(), k, n, ones.data());
    for (size_t i = 0; i < kernel.size(); ++i) {
      if (ones[i] == kZeroPoint + 1) kernel[i] = packed[i];
    }
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
    const bool raw = activations != Activations::kFloat && OneIn(random, 4);
    a.y_type = raw ? ElementType::kInt32 : static_cast<ElementType>(Uniform(random, 0, 2));
    a.y_stride = n + (OneIn(random, 2) ? 0 : Uniform(random, 0, 5));
  }

  int64_t YBytes() const { return a.m == 0 || a.n == 0 ? 0 : ((a.m - 1) * a.y_stride + a.n) * (a.y_type == ElementType::kFloat32 || a.y_type == ElementType::kInt32 ? 4 : 2); }
  std::string Name() const {
    return "m " + std::to_string(a.m) + " k " + std::to_string(a.k) + " n " + std::to_string(a.n) + " " +
           kActivationsNames[static_cast<int>(a.activations)] + " " + kActivationNames[static_cast<int>(a.activation)] + " y type " +
           std::to_string(static_cast<int>(a.y_type));
  }

  MatMulArgs a;
  Rows x;
  std::vector<int8_t> weights;
  std::vector<uint8_t> kernel;
  std::vector<float> scale, mean, bias;
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

// Float activations: |y - exact| <= (k + 4) 2^-24 (sum |x w| scale + |mean| sum |x|), give or take the activation.
void CompareFloats(const Case& c, const std::vector<char>& y, const char* what) {
  for (int64_t r = 0; r < c.a.m; ++r) {
    for (int64_t j = 0; j < c.a.n; ++j) {
      double sum = 0, magnitude = 0, row_sum = 0, row_magnitude = 0;
      for (int64_t i = 0; i < c.a.k; ++i) {
        const double v = c.x.values[static_cast<size_t>(r * c.a.k + i)], w = c.weights[static_cast<size_t>(i * c.a.n + j)];
        sum += v * w;
        magnitude += std::fabs(v * w);
        row_sum += v;
        row_magnitude += std::fabs(v);
      }
      const double scale = c.scale[static_cast<size_t>(j)], mean = c.a.mean != nullptr ? c.mean[static_cast<size_t>(j)] : 0;
      const double bias = c.a.bias != nullptr ? c.bias[static_cast<size_t>(j)] : 0;
      const double expected = scale * sum + mean * row_sum + bias;
      const double error = static_cast<double>(c.a.k + 4) * 0x1p-24 * (std::fabs(scale) * magnitude + std::fabs(mean) * row_magnitude + std::fabs(bias));
      const float actual = Load(y, c.a.y_type, r * c.a.y_stride + j);
      if (IsActivated(c.a.activation, c.a.y_type, expected, error, actual)) continue;
      EXPECT(false, "%s %s [%ld, %ld]: %g instead of %g +- %g before the activation", what, c.Name().c_str(), static_cast<long>(r), static_cast<long>(j),
             static_cast<double>(actual), expected, error);
      return;
    }
  }
}

// Runs one case. `plan` null: CudaMatMul, which plans for `device`; otherwise the GEMM with this plan. Returns whether all was right.
bool Run(Random& random, Case& c, const CudaDevice& device, const GemmPlan* plan) {
  const int before = failures;
  const bool integer = c.a.activations != Activations::kFloat;
  std::vector<char> expected(static_cast<size_t>(c.YBytes()), 0x77);
  std::vector<float> expected_scale(static_cast<size_t>(c.a.m), -1.0f);
  c.a.y = expected.data();
  c.a.row_scale = integer ? expected_scale.data() : nullptr;
  if (integer) {
    SingleThread thread;
    Scratch scratch(WorkspaceBytes(c.a, 1));
    MatMul(c.a, scratch.data(), &thread);
  }

  CudaMatMulArgs args;
  args.matmul = c.a;
  // Activations and outputs anywhere, also where no vector of four can be loaded.
  const size_t element = c.a.x_type == ElementType::kFloat32 ? 4 : 2;
  const int64_t x_elements = c.a.m == 0 || c.a.k == 0 ? 0 : (c.a.m - 1) * c.a.x_stride + c.a.k;
  DeviceArray<char> x(static_cast<size_t>(x_elements) * element, OneIn(random, 2) ? 0 : element);
  if (x_elements > 0) std::memcpy(x.data(), c.a.x, x.size());
  DeviceArray<uint8_t> kernel(c.kernel);
  DeviceArray<float> scale(c.scale), mean(c.mean), bias(c.bias), x_scale(std::vector<float>{c.a.x_scale});
  DeviceArray<char> y(expected.size(), OneIn(random, 2) ? 0 : 4);
  std::memset(y.data(), 0x77, y.size());
  DeviceArray<float> row_scale(expected_scale.size());
  args.matmul.x = x.data();
  args.matmul.kernel = kernel.data();
  args.matmul.scale = scale.data();
  args.matmul.mean = c.a.mean != nullptr ? mean.data() : nullptr;
  args.matmul.bias = c.a.bias != nullptr ? bias.data() : nullptr;
  args.matmul.y = y.data();
  args.matmul.row_scale = integer ? row_scale.data() : nullptr;
  args.x_scale = x_scale.data();
  EXPECT(CheckCudaMatMul(args).empty(), "%s", CheckCudaMatMul(args).c_str());

  std::string error;
  if (plan == nullptr) {
    DeviceArray<char> workspace(static_cast<size_t>(CudaWorkspaceBytes(args, device)));
    error = CudaMatMul(args, workspace.data(), device, kStream);
  } else {
    CudaProblem p = MakeCudaProblem(args);
    p.x_q_stride = RoundUp(c.a.k, kGemmDepth);
    p.partial_stride = plan->splits > 1 ? RoundUp(c.a.n, 4) : 0;
    DeviceArray<uint8_t> x_q(static_cast<size_t>(c.a.m * p.x_q_stride));
    DeviceArray<RowScale> row_scales(static_cast<size_t>(c.a.m));
    DeviceArray<int32_t> partial(static_cast<size_t>(plan->splits * c.a.m * p.partial_stride));
    p.x_q = x_q.data();
    p.row_scales = row_scales.data();
    p.partial_sums = plan->splits > 1 ? partial.data() : nullptr;
    error = LaunchQuantizeRows(p.x, p.x_scale, x_q.data(), p.x_q_stride, row_scales.data(), p.row_scale_copy, kStream);
    if (error.empty()) error = LaunchGemm(p, *plan, device, kStream);
  }
  if (!error.empty()) {
    EXPECT(error.empty(), "%s: %s", c.Name().c_str(), error.c_str());
    return false;
  }
  const std::vector<char> actual = y.ToHost();
  if (integer) {
    for (size_t r = 0; r < expected_scale.size() && c.a.n > 0; ++r) {
      EXPECT(std::memcmp(&expected_scale[r], row_scale.data() + r, 4) == 0, "%s: scale of row %zu is %g instead of %g", c.Name().c_str(), r,
             static_cast<double>(row_scale.data()[r]), static_cast<double>(expected_scale[r]));
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      if (actual[i] == expected[i]) continue;
      const size_t bytes = c.a.y_type == ElementType::kFloat32 || c.a.y_type == ElementType::kInt32 ? 4 : 2;
      EXPECT(false, "%s: y[%ld, %ld] differs (x type %d, scale %g)", c.Name().c_str(), static_cast<long>(i / bytes) / c.a.y_stride,
             static_cast<long>(i / bytes) % c.a.y_stride, static_cast<int>(c.a.x_type), static_cast<double>(expected_scale[i / bytes / c.a.y_stride]));
      break;
    }
  } else {
    CompareFloats(c, actual, "weight-only");
  }
  return failures == before;
}

GemmPlan PlanWith(int tile, int64_t splits, const MatMulArgs& a) {
  const auto divide_up = [](int64_t x, int64_t y) { return (x + y - 1) / y; };
  GemmPlan plan;
  plan.tile = tile;
  plan.splits = splits;
  plan.stages = divide_up(divide_up(a.k, kGemmDepth), splits);
  plan.blocks = divide_up(a.m, kGemmTiles[tile].rows) * divide_up(a.n, kGemmTiles[tile].columns) * splits;
  return plan;
}

// Every row of the table: one tile, tails in every direction, several tiles with K split.
void TestGemmTiles(Random& random) {
  for (int tile = 0; tile < kNumGemmTiles; ++tile) {
    const GemmTile& t = kGemmTiles[tile];
    if (GemmSharedBytes(t, kGemmTable.words, kCudaArch) > DeviceWith(1).shared_bytes_per_block) continue;
    struct Shape {
      int64_t m, k, n, splits;
    };
    const Shape shapes[] = {{t.rows, 64, t.columns, 1},          {1, 1, 1, 1},
                            {t.rows - 1, 191, t.columns - 1, 1}, {t.rows + 1, 130, t.columns + 17, 1},
                            {7, 65, 33, 1},                      {t.rows + 3, 322, 49, 2},
                            {5, 0, 20, 1}};
    for (const Shape& s : shapes) {
      Case c(random, s.m, s.k, s.n, static_cast<Activations>(Uniform(random, 0, 1)));
      const GemmPlan plan = PlanWith(tile, s.splits, c.a);
      if (!Run(random, c, DeviceWith(2), &plan)) std::printf("  with tile %d, %ld splits\n", tile, static_cast<long>(s.splits));
    }
  }
}

// Every number of rows and kind of activations of the GEMV, the chunks of long rows, and what CudaMatMul picks by itself.
void TestMatMul(Random& random, int64_t cases) {
  for (const Activations activations : {Activations::kDynamic, Activations::kStatic, Activations::kFloat}) {
    for (int64_t m = 1; m <= kGemvRows; ++m) {
      Case c(random, m, Size(random, 300), Size(random, 200), activations);
      Run(random, c, DeviceWith(static_cast<int>(Uniform(random, 1, 8))), nullptr);
    }
    // Longer than shared memory holds: rows are quantised first, or brought in by chunks.
    for (const int64_t m : {1, 3, 8}) {
      const int64_t groups = kGemvXBytes / GemvRows(m) / (activations == Activations::kFloat ? 16 : 4);
      Case c(random, m, groups * 4 + Uniform(random, 1, 300), Uniform(random, 1, 40), activations);
      Run(random, c, DeviceWith(1), nullptr);
    }
    // Wide enough for blocks of 64 outputs on a small device, and split on a large one.
    for (const int64_t n : {130, 300}) {
      Case c(random, 2, 40, n, activations);
      Run(random, c, DeviceWith(1), nullptr);
    }
    Case split(random, 12, 1100, 70, activations);
    Run(random, split, DeviceWith(60), nullptr);
    Case no_k(random, 3, 0, 21, activations), no_k_more(random, 11, 0, 21, activations);
    Run(random, no_k, DeviceWith(4), nullptr);
    Run(random, no_k_more, DeviceWith(4), nullptr);
  }
  for (int64_t i = 0; i < cases; ++i) {
    Case c(random, Size(random, 70), Size(random, 300), Size(random, 150), static_cast<Activations>(Uniform(random, 0, 2)));
    Run(random, c, DeviceWith(static_cast<int>(Uniform(random, 1, 40))), nullptr);
  }
}

// NaN and infinity in x, an x_scale that is none.
void TestSpecialValues(Random& random) {
  for (const int64_t m : {3, 20}) {
    for (const Activations activations : {Activations::kDynamic, Activations::kStatic}) {
      Case c(random, m, 70, 40, activations);
      while (c.x.type != ElementType::kFloat32) c.x = MakeRows(random, m, 70);
      c.a.x = c.x.data();
      c.a.x_type = ElementType::kFloat32;
      c.a.x_stride = c.x.stride;
      c.a.activation = Activation::kRelu;
      c.x.x32[static_cast<size_t>(c.x.offset + 5)] = NAN;
      c.x.x32[static_cast<size_t>(c.x.offset + c.x.stride + 69)] = INFINITY;
      Run(random, c, DeviceWith(4), nullptr);
    }
    Case c(random, m, 33, 9, Activations::kStatic);
    c.a.y_type = ElementType::kFloat32;
    c.a.activation = Activation::kLinear;
    for (const float scale : {0.0f, -1.0f, NAN, INFINITY}) {
      CudaMatMulArgs args;
      args.matmul = c.a;
      DeviceArray<float> x_scale(std::vector<float>{scale}), y(static_cast<size_t>(c.a.m * c.a.y_stride));
      DeviceArray<uint8_t> kernel(c.kernel);
      args.matmul.kernel = kernel.data();
      args.matmul.y = y.data();
      args.x_scale = x_scale.data();
      DeviceArray<char> workspace(static_cast<size_t>(CudaWorkspaceBytes(args, DeviceWith(4))));
      std::memset(y.data(), 0, y.size() * 4);
      const std::string error = CudaMatMul(args, workspace.data(), DeviceWith(4), kStream);
      EXPECT(error.empty(), "%s", error.c_str());
      for (int64_t j = 0; j < c.a.n; ++j) EXPECT(std::isnan(y.data()[j]), "x_scale %g gives %g", static_cast<double>(scale), static_cast<double>(y.data()[j]));
    }
  }
}

void TestDequantize(Random& random) {
  for (int i = 0; i < 12; ++i) {
    const int64_t k = Size(random, 40), n = Size(random, 140);
    Case c(random, 1, k, n, Activations::kDynamic);
    std::vector<float> expected(static_cast<size_t>(k * n), -1.0f);
    SingleThread thread;
    Dequantize(c.kernel.data(), k, n, c.a.scale, c.a.mean, expected.data(), &thread);
    DeviceArray<uint8_t> kernel(c.kernel);
    DeviceArray<float> scale(c.scale), mean(c.mean), actual(expected.size());
    const std::string error = CudaDequantize(kernel.data(), k, n, scale.data(), c.a.mean != nullptr ? mean.data() : nullptr, actual.data(), kStream);
    EXPECT(error.empty(), "%s", error.c_str());
    EXPECT(actual.ToHost() == expected, "unpacked weights differ for k %ld n %ld", static_cast<long>(k), static_cast<long>(n));
  }
}

void TestLookUp(Random& random) {
  for (int i = 0; i < 24; ++i) {
    LookupArgs a;
    a.n = 1 + Size(random, 40);
    a.k = OneIn(random, 2) ? 4 * Size(random, 40) : Size(random, 140);
    a.count = Size(random, 30);
    a.wide = OneIn(random, 2);
    a.y_type = static_cast<ElementType>(Uniform(random, 0, 2));
    std::vector<int8_t> table(static_cast<size_t>(a.n * a.k));
    for (int8_t& q : table) q = static_cast<int8_t>(Uniform(random, -128, 127));
    std::normal_distribution<float> normal;
    std::vector<float> scales(static_cast<size_t>(a.n)), means(scales.size());
    for (float& v : scales) v = normal(random);
    for (float& v : means) v = normal(random);
    std::vector<int64_t> wide(static_cast<size_t>(a.count));
    for (int64_t& index : wide) index = Uniform(random, 0, a.n - 1);
    const std::vector<int32_t> narrow(wide.begin(), wide.end());
    const bool centred = OneIn(random, 2);
    const size_t bytes = static_cast<size_t>(a.count * a.k) * (a.y_type == ElementType::kFloat32 ? 4 : 2);
    // What the CPU gives; indices that are out of range give zeros besides.
    std::vector<char> expected(bytes);
    a.indices = a.wide ? static_cast<const void*>(wide.data()) : narrow.data();
    a.rows = table.data();
    a.scale = scales.data();
    a.mean = centred ? means.data() : nullptr;
    a.y = expected.data();
    SingleThread thread;
    EXPECT(LookUp(a, &thread) == a.count, "indices are in range");
    for (int64_t j = 0; j < a.count; ++j) {
      if (!OneIn(random, 5)) continue;
      wide[static_cast<size_t>(j)] = OneIn(random, 2) ? -1 : a.n;
      const size_t row = bytes / static_cast<size_t>(a.count);
      std::fill_n(expected.begin() + static_cast<int64_t>(row) * j, row, char{0});
    }
    const size_t offset = OneIn(random, 2) ? 0 : 1;
    DeviceArray<int64_t> wide_indices(wide);
    DeviceArray<int32_t> narrow_indices(std::vector<int32_t>(wide.begin(), wide.end()));
    DeviceArray<int8_t> rows(table, offset);
    DeviceArray<float> scale(scales), mean(means);
    DeviceArray<char> y(bytes, OneIn(random, 2) ? 0 : 4);
    a.indices = a.wide ? static_cast<const void*>(wide_indices.data()) : narrow_indices.data();
    a.rows = rows.data();
    a.scale = scale.data();
    a.mean = centred ? mean.data() : nullptr;
    a.y = y.data();
    const std::string error = CudaLookUp(a, kStream);
    EXPECT(error.empty(), "%s", error.c_str());
    EXPECT(y.ToHost() == expected, "looked-up rows differ for k %ld n %ld", static_cast<long>(a.k), static_cast<long>(a.n));
  }
}

void TestErrors(Random& random) {
  Case c(random, 3, 33, 9, Activations::kStatic);
  DeviceArray<uint8_t> kernel(c.kernel, 4);
  CudaMatMulArgs args;
  args.matmul = c.a;
  args.matmul.kernel = kernel.data();
  EXPECT(CheckCudaMatMul(args).find("kernel must be 16-byte aligned") == 0, "%s", CheckCudaMatMul(args).c_str());
  args.matmul.kernel = nullptr;
  args.matmul.k = kMaxInFeatures + 1;
  EXPECT(CheckCudaMatMul(args).find("in_features must be at most") == 0, "%s", CheckCudaMatMul(args).c_str());
}

GemmPlan PlanInt8(int64_t m, int64_t k, int64_t n, const CudaDevice& device) {
  return PlanGemm(kGemmTable, m, (k + kGemmDepth - 1) / kGemmDepth, n, device);
}

// What is picked for real devices.
void TestPlans() {
  for (const GemmTile& tile : kGemmTiles) {
    // 8.0 and 9.0 have 164 KiB of shared memory or more, of which a block takes 1 KiB for itself.
    for (const int capability : {80, 90}) {
      EXPECT(tile.blocks * (GemmSharedBytes(tile, kGemmTable.words, capability) + 1024) <= 164 << 10, "%d x %d, %d blocks", tile.rows, tile.columns, tile.blocks);
    }
  }
  const CudaDevice t4 = {75, 40, 64 << 10}, a100 = {80, 108, 163 << 10}, l4 = {89, 58, 99 << 10}, h100 = {90, 132, 227 << 10};
  for (const CudaDevice& device : {t4, a100, l4, h100}) {
    for (const int64_t m : {9, 16, 17, 32, 64, 128, 500, 4096}) {
      for (const int64_t k : {0, 1, 64, 768, 1024, 4096, 65536}) {
        for (const int64_t n : {1, 100, 1024, 3072, 4096, 50000}) {
          const GemmPlan plan = PlanInt8(m, k, n, device);
          const GemmTile& tile = kGemmTiles[plan.tile];
          EXPECT(GemmSharedBytes(tile, kGemmTable.words, device.compute_capability) <= device.shared_bytes_per_block, "tile %d", plan.tile);
          EXPECT(plan.stages * kGemmDepth * plan.splits >= k, "all of K: %ld x %ld", static_cast<long>(plan.splits), static_cast<long>(plan.stages));
          EXPECT(plan.splits == 1 || plan.stages * kGemmDepth * (plan.splits - 1) < k, "no empty split of %ld", static_cast<long>(k));
          EXPECT(plan.blocks == (m + tile.rows - 1) / tile.rows * ((n + tile.columns - 1) / tile.columns) * plan.splits, "%ld blocks", static_cast<long>(plan.blocks));
        }
      }
    }
    // A large product: the largest tiles, K in one piece. Few rows: the smallest tile, and nearly every multiprocessor has work.
    EXPECT(kGemmTiles[PlanInt8(4096, 4096, 4096, device).tile].rows == 128 && PlanInt8(4096, 4096, 4096, device).splits == 1, "large");
    const GemmPlan few = PlanInt8(16, 4096, 4096, device);
    EXPECT(few.tile == 0 && few.blocks * 10 >= device.multiprocessors * 8, "tile %d, %ld blocks", few.tile, static_cast<long>(few.blocks));
    MatMulArgs args;
    args.m = 1;
    args.k = args.n = 4096;
    const GemvPlan gemv = PlanGemv(args, device);
    EXPECT(gemv.fused && gemv.blocks >= kGemvBlocksPerMultiprocessor * device.multiprocessors - 8, "%ld blocks", static_cast<long>(gemv.blocks));
    args.m = 8;
    args.k = 65536;
    EXPECT(!PlanGemv(args, device).fused, "rows that do not fit are quantised first");
    for (const Activations activations : {Activations::kDynamic, Activations::kFloat}) {
      for (args.m = 1; args.m <= kGemvRows; ++args.m) {
        args.activations = activations;
        EXPECT(GemvSharedBytes(args, PlanGemv(args, device)) <= 48 << 10, "%ld rows", static_cast<long>(args.m));
      }
    }
  }
}

// Short runs that pass every barrier and every wait of the kernels.
bool RunAllBarriers(uint64_t seed) {
  Random random(seed);
  emulation::runtime.random.seed(seed);
  for (int tile : {0, 2}) {
    Case c(random, kGemmTiles[tile].rows, 400, 130, Activations::kDynamic);
    const GemmPlan plan = PlanWith(tile, 1, c.a);
    if (!Run(random, c, DeviceWith(2), &plan)) return false;
  }
  for (const Activations activations : {Activations::kDynamic, Activations::kFloat}) {
    Case small(random, 3, 1100, 40, activations), more(random, 20, 290, 70, activations), chunks(random, 2, 9000, 17, activations);
    for (Case* c : {&small, &more, &chunks}) {
      if (!Run(random, *c, DeviceWith(2), nullptr)) return false;
    }
  }
  return true;
}

void Test(Random& random, int64_t cases) {
  TestGemmTiles(random);
  TestMatMul(random, cases);
  TestSpecialValues(random);
  TestDequantize(random);
  TestLookUp(random);
  TestErrors(random);
  TestPlans();
}

}  // namespace
}  // namespace tfcompress::int8

int main(int argc, char** argv) {
  using namespace tfcompress::int8;  // NOLINT(google-build-using-namespace)
  return tfcompress::testing::RunProgram(argc, argv, "csrc/", RunAllBarriers, Test);
}
