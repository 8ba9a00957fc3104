// Runs every sparse GPU kernel in emulation and compares: int8 values with the CPU kernels to the bit, float values with plain loops to a bound
// that follows from K. Usage: sparse_cuda_test [cases] [seed]; sparse_cuda_test faults.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "../csrc/sparse_testing.h"
#include "cuda_testing.h"
#include "formats/sparse/cuda.h"
#include "python/thread_pool.h"

namespace tfcompress::sparse {
namespace {

using namespace tfcompress::testing;  // NOLINT(google-build-using-namespace)

struct Case {
  Case(Random& random, const Flavour& flavour, int64_t m, int64_t k, int64_t n) : flavour(flavour) {
    std::normal_distribution<float> normal;
    x = MakeRows(random, m, k);
    const int64_t zeros = Uniform(random, 0, 10);  // of ten
    std::vector<float> w32(static_cast<size_t>(k * n));
    std::vector<uint16_t> w16(w32.size());
    std::vector<int8_t> w8(w32.size());
    weights.resize(w32.size());
    for (int64_t j = 0; j < n; ++j) {
      const bool empty = OneIn(random, 6);
      for (int64_t i = 0; i < k; ++i) {
        const auto at = static_cast<size_t>(i * n + j);
        if (empty || Uniform(random, 0, 9) < zeros) continue;
        w32[at] = normal(random);
        w16[at] = TruncateToBFloat(w32[at]);
        w8[at] = static_cast<int8_t>(Uniform(random, -127, 127));
        weights[at] = flavour.values == Values::kFloat32 ? w32[at] : flavour.values == Values::kBFloat16 ? BFloatToFloat(w16[at]) : w8[at];
      }
    }
    const void* packed = flavour.values == Values::kFloat32 ? static_cast<const void*>(w32.data())
                         : flavour.values == Values::kBFloat16 ? static_cast<const void*>(w16.data())
                                                               : static_cast<const void*>(w8.data());
    arrays = PackArrays(packed, flavour, k, n);
    structure = StructureOf(arrays);
    const auto vector = [&](std::vector<float>& v) {
      v.resize(static_cast<size_t>(n));
      for (float& f : v) f = normal(random);
    };
    if (flavour.values == Values::kInt8) vector(scale);
    if (OneIn(random, 2)) vector(bias);
    a.m = m;
    a.x = x.data();
    a.x_type = x.type;
    a.x_stride = x.stride;
    a.matrix = arrays.View();
    a.scale = scale.empty() ? nullptr : scale.data();
    a.bias = bias.empty() ? nullptr : bias.data();
    a.activations = static_cast<Activations>(Uniform(random, 0, 1));
    a.x_scale = 0.02f;
    a.activation = static_cast<Activation>(Uniform(random, 0, static_cast<int64_t>(Activation::kCount) - 1));
    const bool raw = flavour.values == Values::kInt8 && OneIn(random, 4);
    a.y_type = raw ? ElementType::kInt32 : static_cast<ElementType>(Uniform(random, 0, 2));
    a.y_stride = n + (OneIn(random, 2) ? 0 : Uniform(random, 0, 5));
  }

  // The same matrix with a step for each lane that a step has filled: more of them than any packer makes.
  void SpreadSteps() {
    const size_t entries = static_cast<size_t>(Entries(flavour.values)), bytes = static_cast<size_t>(ValueBytes(flavour.values));
    Arrays spread = {flavour, arrays.k, arrays.n, {}, {}, {}, {0}, arrays.order};
    for (size_t panel = 0; panel + 1 < arrays.panels.size(); ++panel) {
      for (auto s = static_cast<size_t>(arrays.panels[panel]); s < static_cast<size_t>(arrays.panels[panel + 1]); ++s) {
        for (size_t lane = 0; lane < kLanes; ++lane) {
          const size_t at = (s * kLanes + lane) * entries, to = (spread.windows.size() * kLanes + lane) * entries;
          if (arrays.indices[at] >= kPadding) continue;
          spread.windows.push_back(arrays.windows[s]);
          spread.indices.resize(spread.windows.size() * kLanes * entries, static_cast<uint8_t>(kPadding));
          spread.values.resize(spread.indices.size() * bytes, 0);
          std::memcpy(&spread.indices[to], &arrays.indices[at], entries);
          std::memcpy(&spread.values[to * bytes], &arrays.values[at * bytes], entries * bytes);
        }
      }
      spread.panels.push_back(static_cast<int32_t>(spread.windows.size()));
    }
    arrays = spread;
    structure = StructureOf(arrays);
    a.matrix = arrays.View();
  }

  size_t ElementBytes() const { return a.y_type == ElementType::kFloat32 || a.y_type == ElementType::kInt32 ? 4 : 2; }
  size_t YBytes() const {
    return a.m == 0 || a.matrix.n == 0 ? 0 : static_cast<size_t>((a.m - 1) * a.y_stride + a.matrix.n) * ElementBytes();
  }
  std::string Name() const {
    return "m " + std::to_string(a.m) + " k " + std::to_string(a.matrix.k) + " n " + std::to_string(a.matrix.n) + " " +
           kValuesNames[static_cast<int>(flavour.values)] + " reach " + std::to_string(flavour.reach) + " " + kActivationNames[static_cast<int>(a.activation)];
  }

  Flavour flavour;
  Rows x;
  std::vector<float> weights, scale, bias;
  Arrays arrays;
  std::vector<uint8_t> structure;
  MatMulArgs a;
};

// The matrix in "device" memory.
struct DeviceMatrix {
  explicit DeviceMatrix(const Case& c) : DeviceMatrix(c, c.structure) {}
  DeviceMatrix(const Case& c, const std::vector<uint8_t>& bytes) : structure(bytes), values(c.arrays.values) {
    view.values_type = c.flavour.values;
    view.reach = c.flavour.reach;
    view.k = c.a.matrix.k;
    view.steps = c.a.matrix.steps;
    view.values = values.data();
    EXPECT(PointInto(structure.data(), static_cast<int64_t>(bytes.size()), &view), "%zu bytes", bytes.size());
    EXPECT(view.n == c.a.matrix.n, "n %ld", static_cast<long>(view.n));
    EXPECT(CheckCudaMatrix(view).empty(), "%s", CheckCudaMatrix(view).c_str());
  }
  DeviceArray<uint8_t> structure;
  DeviceArray<char> values;
  Matrix view;
};

float Load(const char* y, ElementType type, int64_t i) {
  if (type == ElementType::kFloat32) {
    float f;
    std::memcpy(&f, y + i * 4, 4);
    return f;
  }
  uint16_t h;
  std::memcpy(&h, y + i * 2, 2);
  return type == ElementType::kFloat16 ? HalfToFloat(h) : BFloatToFloat(h);
}

// |y - exact| <= ((k + 4) 2^-24 + rounding) sum |x w|, give or take the activation. `rounding`: of a product, where tensor cores multiply: both sides
// to TensorFloat-32, or x to bfloat16.
void CompareFloats(const Case& c, const char* y, bool tensor) {
  const double rounding = !tensor ? 0 : c.flavour.values == Values::kBFloat16 ? 0x1p-8 : 2 * 0x1p-11 + 0x1p-22;
  const int64_t k = c.a.matrix.k, n = c.a.matrix.n;
  for (int64_t r = 0; r < c.a.m; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t i = 0; i < k; ++i) {
        const double product = static_cast<double>(c.x.values[static_cast<size_t>(r * k + i)]) * c.weights[static_cast<size_t>(i * n + j)];
        sum += product;
        magnitude += std::fabs(product);
      }
      const double bias = c.bias.empty() ? 0 : c.bias[static_cast<size_t>(j)];
      const double error = (static_cast<double>(k + 4) * 0x1p-24 + rounding) * (magnitude + std::fabs(bias));
      const float actual = Load(y, c.a.y_type, r * c.a.y_stride + j);
      if (IsActivated(c.a.activation, c.a.y_type, sum + bias, error, actual)) continue;
      EXPECT(false, "%s [%ld, %ld]: %g instead of %g +- %g before the activation", c.Name().c_str(), static_cast<long>(r), static_cast<long>(j),
             static_cast<double>(actual), sum + bias, error);
      return;
    }
  }
}

// The arguments with everything in device memory.
struct OnDevice {
  OnDevice(Random& random, const Case& c, const DeviceMatrix& matrix)
      : x(c.a.m == 0 || c.a.matrix.k == 0 ? 0 : static_cast<size_t>((c.a.m - 1) * c.a.x_stride + c.a.matrix.k) * (c.a.x_type == ElementType::kFloat32 ? 4 : 2),
          OneIn(random, 2) ? 0 : 4),
        scale(c.scale),
        bias(c.bias),
        x_scale(std::vector<float>{c.a.x_scale}),
        y(c.YBytes(), OneIn(random, 2) ? 0 : 4),
        row_scale(static_cast<size_t>(c.a.m)) {
    if (x.size() > 0) std::memcpy(x.data(), c.a.x, x.size());
    std::memset(y.data(), 0x77, y.size());
    args.matmul = c.a;
    args.matmul.matrix = matrix.view;
    args.matmul.x = x.data();
    args.matmul.scale = c.scale.empty() ? nullptr : scale.data();
    args.matmul.bias = c.bias.empty() ? nullptr : bias.data();
    args.matmul.y = y.data();
    args.matmul.row_scale = c.flavour.values == Values::kInt8 ? row_scale.data() : nullptr;
    args.x_scale = x_scale.data();
  }
  std::string Run(const CudaDevice& device) {
    DeviceArray<char> workspace(static_cast<size_t>(CudaWorkspaceBytes(args, device)));
    return CudaMatMul(args, workspace.data(), device, kStream);
  }

  std::string RunBy(const ProductPlan& plan, const CudaDevice& device) {
    DeviceArray<char> workspace(static_cast<size_t>(LayOutWorkspace(args, plan).bytes));
    return CudaMatMulBy(plan, args, workspace.data(), device, kStream);
  }

  DeviceArray<char> x;
  DeviceArray<float> scale, bias, x_scale;
  DeviceArray<char> y;
  DeviceArray<float> row_scale;
  CudaMatMulArgs args;
};

// By the plan that CudaMatMul would take, or by `given`.
bool Run(Random& random, Case& c, const CudaDevice& device, const ProductPlan* given = nullptr) {
  const int before = failures;
  const DeviceMatrix matrix(c);
  OnDevice gpu(random, c, matrix);
  const ProductPlan plan = given != nullptr ? *given : PlanProduct(gpu.args, device);
  const bool tensor = plan.product == Product::kTensor;
  const std::string error = given != nullptr ? gpu.RunBy(plan, device) : gpu.Run(device);
  EXPECT(error.empty(), "%s: %s", c.Name().c_str(), error.c_str());
  if (!error.empty()) return false;
  if (c.flavour.values != Values::kInt8) {
    CompareFloats(c, gpu.y.data(), tensor);
    return failures == before;
  }
  std::vector<char> expected(c.YBytes(), 0x77);
  std::vector<float> expected_scale(static_cast<size_t>(c.a.m), -1.0f);
  MatMulArgs cpu = c.a;
  cpu.y = expected.data();
  cpu.row_scale = expected_scale.data();
  EXPECT(CheckMatMul(&cpu).empty(), "%s", CheckMatMul(&cpu).c_str());
  SingleThread thread;
  Scratch scratch(WorkspaceBytes(cpu, 1));
  MatMul(cpu, scratch.data(), &thread);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == gpu.y.data()[i]) continue;
    EXPECT(false, "%s: y[%ld, %ld] differs", c.Name().c_str(), static_cast<long>(i / c.ElementBytes()) / c.a.y_stride,
           static_cast<long>(i / c.ElementBytes()) % c.a.y_stride);
    break;
  }
  for (size_t r = 0; r < expected_scale.size() && c.a.matrix.n > 0; ++r) {
    EXPECT(std::memcmp(&expected_scale[r], gpu.row_scale.data() + r, 4) == 0, "%s: scale of row %zu", c.Name().c_str(), r);
  }
  return failures == before;
}

// Every kernel for many rows, every tile, K whole and split, at sizes that leave parts of tiles empty.
void TestManyRows(Random& random) {
  for (const Flavour& flavour : kFlavours) {
    const ProductPlan columns = {Product::kColumns, {}};
    for (const int multiprocessors : {1, 2, 40}) {  // blocks of eight, four and two panels
      Case c(random, flavour, 70, 300, 190);
      Run(random, c, DeviceWith(multiprocessors), &columns);
    }
    for (const int64_t m : {20, 64}) {
      Case c(random, flavour, m, Size(random, 500), Size(random, 80));
      Run(random, c, DeviceWith(4), &columns);
    }
    if (flavour.values != Values::kInt8 && !kHasFloatMatrices) continue;
    for (int tile = 0; tile < kNumTensorTiles; ++tile) {
      const int64_t rows = kTensorTiles[tile].rows;
      struct Shape {
        int64_t m, k, n, splits;
      };
      const Shape shapes[] = {{rows, 256, 64, 1}, {rows + 1, 1, 1, 1}, {rows - 1, 777, 131, 1}, {Uniform(random, 1, rows), 777, 70, 3},
                              {Uniform(random, 1, 2 * rows), Size(random, 500), Size(random, 90), Uniform(random, 1, 4)}};
      for (const Shape& shape : shapes) {
        Case c(random, flavour, shape.m, shape.k, shape.n);
        const ProductPlan plan = {Product::kTensor, PlanTensor(c.a.matrix, shape.m, tile, shape.splits)};
        Run(random, c, DeviceWith(4), &plan);
      }
    }
    Case spread(random, flavour, 40, 200, 40);
    spread.SpreadSteps();
    const ProductPlan of_spread = {Product::kTensor, PlanTensor(spread.a.matrix, 40, 1, 2)};
    Run(random, spread, DeviceWith(4), &of_spread);
    Case no_k(random, flavour, 33, 0, 19);
    const ProductPlan plan = {Product::kTensor, PlanTensor(no_k.a.matrix, 33, 0, 1)};
    Run(random, no_k, DeviceWith(4), &plan);
  }
}

void TestMatMul(Random& random, int64_t cases) {
  std::set<std::pair<int, bool>> gathers;
  const ProductPlan gather;
  for (const Flavour& flavour : kFlavours) {
    for (const int64_t m : {1, 2, 3, 8, 16, 17, 65, 130}) {
      Case c(random, flavour, m, Size(random, 500), Size(random, 80));
      Run(random, c, DeviceWith(static_cast<int>(Uniform(random, 1, 20))));
    }
    // Rows of which eight, four, two, one and none fit into shared memory.
    for (const int64_t k : {900, 1900, 3900, 8000, 9000}) {
      for (const int64_t m : {1, 5}) {
        Case c(random, flavour, m, k, Uniform(random, 1, 20));
        const GatherPlan plan = PlanGather(c.a.matrix, m);
        gathers.insert({plan.rows, plan.shared});
        Run(random, c, DeviceWith(4), &gather);
      }
    }
    for (const int64_t m : {2, 20}) {
      Case no_k(random, flavour, m, 0, 19);
      Run(random, no_k, DeviceWith(4));
    }
  }
  EXPECT(gathers.size() == 6, "%zu of 6 variants of Gather ran", gathers.size());
  for (int64_t i = 0; i < cases; ++i) {
    Case c(random, kFlavours[Uniform(random, 0, 3)], Size(random, 90), Size(random, 400), Size(random, 70));
    Run(random, c, DeviceWith(static_cast<int>(Uniform(random, 1, 30))));
  }
}

void TestWeights(Random& random) {
  for (int i = 0; i < 16; ++i) {
    const Flavour& flavour = kFlavours[i % 4];
    const int64_t k = Size(random, 150), n = Size(random, 60), m = Size(random, 40);
    Case c(random, flavour, m, k, n);
    const DeviceMatrix matrix(c);
    SingleThread thread;
    std::vector<float> expected(static_cast<size_t>(k * n), -1.0f);
    Dequantize(c.a.matrix, c.a.scale, expected.data(), &thread);
    DeviceArray<float> scale(c.scale), weights(expected.size());
    std::string error = CudaDequantize(matrix.view, c.scale.empty() ? nullptr : scale.data(), weights.data(), kStream);
    EXPECT(error.empty(), "%s", error.c_str());
    EXPECT(weights.ToHost() == expected, "%s: unpacked weights differ", c.Name().c_str());
    if (flavour.values != Values::kFloat32) continue;

    std::vector<float> dz(static_cast<size_t>(m * n));
    std::normal_distribution<float> normal;
    for (float& v : dz) v = normal(random);
    const size_t places = static_cast<size_t>(c.a.matrix.steps * kLanes);
    std::vector<float> reference(places);
    ValuesGradient(c.a.matrix, c.x.values.data(), dz.data(), m, reference.data(), &thread);
    DeviceArray<float> device_x(c.x.values), device_dz(dz), gradient(places);
    error = CudaValuesGradient(matrix.view, device_x.data(), device_dz.data(), m, gradient.data(), kStream);
    EXPECT(error.empty(), "%s", error.c_str());
    for (size_t at = 0; at < places; ++at) {
      // Sums of m products of magnitudes up to 1e6, in another order.
      const double bound = 1e-5 * static_cast<double>(m + 1) * (1 + std::fabs(static_cast<double>(reference[at])));
      EXPECT(std::fabs(static_cast<double>(gradient.data()[at]) - static_cast<double>(reference[at])) <= bound, "%s: gradient %zu is %g instead of %g",
             c.Name().c_str(), at, static_cast<double>(gradient.data()[at]), static_cast<double>(reference[at]));
    }
  }
}

// Whatever a structure's bytes are, nothing is read or written out of bounds: AddressSanitizer looks on.
void TestMalformed(Random& random) {
  for (int i = 0; i < 100; ++i) {
    Case c(random, kFlavours[i % 4], OneIn(random, 2) ? 3 : 20, Uniform(random, 1, 200), Uniform(random, 1, 40));
    std::vector<uint8_t> bytes = c.structure;
    for (int64_t change = Uniform(random, 1, 40); change > 0; --change) {
      bytes[static_cast<size_t>(Uniform(random, 0, static_cast<int64_t>(bytes.size()) - 1))] = static_cast<uint8_t>(Uniform(random, 0, 255));
    }
    const DeviceMatrix matrix(c, bytes);
    OnDevice gpu(random, c, matrix);
    for (const Product product : {Product::kGather, Product::kColumns, Product::kTensor}) {
      const int tile = static_cast<int>(Uniform(random, 0, 1));
      if (product == Product::kTensor && !HasTensor(gpu.args, tile, DeviceWith(4))) continue;
      const std::string error = gpu.RunBy({product, PlanTensor(gpu.args.matmul.matrix, c.a.m, tile, Uniform(random, 1, 2))}, DeviceWith(4));
      EXPECT(error.empty(), "%s", error.c_str());
    }
    DeviceArray<float> weights(static_cast<size_t>(c.a.matrix.k * c.a.matrix.n)), scale(c.scale);
    EXPECT(CudaDequantize(matrix.view, c.scale.empty() ? nullptr : scale.data(), weights.data(), kStream).empty(), "unpacking");
    if (c.flavour.values == Values::kFloat32) {
      DeviceArray<float> x(c.x.values), dz(std::vector<float>(static_cast<size_t>(c.a.m * c.a.matrix.n), 1.0f)), gradient(static_cast<size_t>(c.a.matrix.steps * kLanes));
      EXPECT(CudaValuesGradient(matrix.view, x.data(), dz.data(), c.a.m, gradient.data(), kStream).empty(), "gradient");
    }
  }
}

void TestErrors(Random& random) {
  Case c(random, kFlavours[0], 3, 70, 20);
  DeviceMatrix matrix(c);
  const auto check = [&](const char* expected, auto change) {
    Matrix changed = matrix.view;
    change(&changed);
    EXPECT(CheckCudaMatrix(changed).find(expected) != std::string::npos, "%s", CheckCudaMatrix(changed).c_str());
  };
  check("in_features must be from 0", [](Matrix* a) { a->k = -1; });
  check("reach must be 64", [](Matrix* a) { a->reach = 128; });
  check("no steps", [](Matrix* a) {
    a->k = 0;
    a->steps = 1;
  });
  check("16-byte aligned", [](Matrix* a) { a->values = static_cast<const char*>(a->values) + 4; });
  // A structure of another in_features: every output is NaN.
  matrix.view.k = 71;
  OnDevice gpu(random, c, matrix);
  DeviceArray<float> x(static_cast<size_t>(71 * 3)), y(static_cast<size_t>(20 * 3));
  std::memset(x.data(), 0, x.size() * 4);
  std::memset(y.data(), 0, y.size() * 4);
  gpu.args.matmul.x = x.data();
  gpu.args.matmul.x_type = gpu.args.matmul.y_type = ElementType::kFloat32;
  gpu.args.matmul.x_stride = 71;
  gpu.args.matmul.y = y.data();
  gpu.args.matmul.y_stride = 20;
  gpu.args.matmul.activation = Activation::kLinear;
  EXPECT(gpu.Run(DeviceWith(4)).empty(), "a launch");
  for (size_t i = 0; i < y.size(); ++i) EXPECT(std::isnan(y.data()[i]), "%g", static_cast<double>(y.data()[i]));
}

// Short runs that pass every barrier of the kernels.
bool RunAllBarriers(uint64_t seed) {
  Random random(seed);
  emulation::runtime.random.seed(seed);
  const ProductPlan gather = {}, columns = {Product::kColumns, {}};
  for (const Flavour& flavour : {kFlavours[0], kFlavours[2]}) {
    Case few(random, flavour, 3, 500, 70), many(random, flavour, 70, 500, 70);
    if (!Run(random, few, DeviceWith(1), &gather) || !Run(random, many, DeviceWith(1), &columns)) return false;
    if (flavour.values != Values::kInt8 && !kHasFloatMatrices) continue;
    for (const int tile : {1, 3}) {
      const ProductPlan tensor = {Product::kTensor, PlanTensor(many.a.matrix, many.a.m, tile, 1)};
      if (!Run(random, many, DeviceWith(1), &tensor)) return false;
    }
  }
  return true;
}

void Test(Random& random, int64_t cases) {
  TestMatMul(random, cases);
  TestManyRows(random);
  TestWeights(random);
  TestMalformed(random);
  TestErrors(random);
}

}  // namespace
}  // namespace tfcompress::sparse

int main(int argc, char** argv) {
  using namespace tfcompress::sparse;  // NOLINT(google-build-using-namespace)
  return tfcompress::testing::RunProgram(argc, argv, "csrc/formats/sparse/", RunAllBarriers, Test);
}
