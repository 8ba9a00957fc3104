// tfcompress_ops._kernels: the kernel library on NumPy arrays. Thin: check, allocate, call formats/.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "formats/int8/cuda.h"
#include "formats/int8/int8.h"
#include "formats/int8/kernels.h"
#include "formats/sparse/cuda.h"
#include "formats/sparse/kernels.h"
#include "python/module_support.h"
#include "python/peaks.h"

namespace tfcompress {
namespace {

void RequireInFeatures(int64_t k) {
  Require(k >= 0 && k <= int8::kMaxInFeatures, "`in_features` must be from 0 to " + std::to_string(int8::kMaxInFeatures) +
                                                   ", so that integer sums fit into int32; received " + std::to_string(k) + ".");
}

int64_t Int8PackedSize(int64_t k, int64_t n) {
  RequireInFeatures(k);
  Require(n >= 0 && n < (int64_t{1} << 40), "`out_features` must be >= 0; received " + std::to_string(n) + ".");
  return int8::PackedBytes(k, n);
}

py::array_t<uint8_t> Int8Pack(const Dense<int8_t>& weights) {
  RequireRank(weights, "weights", 2);
  const int64_t k = weights.shape(0), n = weights.shape(1);
  py::array_t<uint8_t> packed(Int8PackedSize(k, n));
  const int8_t* from = weights.data();
  uint8_t* to = packed.mutable_data();
  py::gil_scoped_release release;
  int8::Pack(from, k, n, to);
  return packed;
}

py::array_t<int8_t> Int8Unpack(const Dense<uint8_t>& packed, int64_t k, int64_t n) {
  RequireLength(packed, "packed", Int8PackedSize(k, n));
  py::array_t<int8_t> weights({k, n});
  const uint8_t* from = packed.data();
  int8_t* to = weights.mutable_data();
  py::gil_scoped_release release;
  int8::Unpack(from, k, n, to);
  return weights;
}

py::tuple Int8QuantizePack(const Dense<float>& kernel, bool center) {
  RequireRank(kernel, "kernel", 2);
  const int64_t k = kernel.shape(0), n = kernel.shape(1);
  py::array_t<uint8_t> packed(Int8PackedSize(k, n));
  py::array_t<float> scale(n);
  std::optional<py::array_t<float>> mean;
  if (center) mean.emplace(n);
  const float* from = kernel.data();
  uint8_t* to = packed.mutable_data();
  float* scales = scale.mutable_data();
  float* means = center ? mean->mutable_data() : nullptr;
  bool finite;
  {
    py::gil_scoped_release release;
    finite = int8::QuantizeAndPack(from, k, n, to, scales, means);
  }
  Require(finite, "`kernel` must be finite; received a NaN, an infinity, or values whose range overflows float32.");
  return py::make_tuple(packed, scale, mean);
}

// Arguments of the two products below.
int8::MatMulArgs MatMulArgsOf(const Dense<float>& x, const Dense<uint8_t>& packed, int64_t n, const std::string& activations,
                              std::optional<float> x_scale) {
  RequireTier();
  RequireRank(x, "x", 2);
  int8::MatMulArgs args;
  args.m = x.shape(0);
  args.k = args.x_stride = x.shape(1);
  args.n = args.y_stride = n;
  RequireLength(packed, "packed", Int8PackedSize(args.k, n));
  args.x = x.data();
  args.kernel = packed.data();
  args.activations = ParseName<int8::Activations>(activations, "activations", int8::kActivationsNames);
  Require(x_scale.has_value() == (args.activations == int8::Activations::kStatic),
          "`x_scale` must be given if and only if `activations` is 'static'.");
  args.x_scale = x_scale.value_or(0.0f);
  return args;
}

void RunInt8MatMul(const int8::MatMulArgs& args, int threads) {
  const std::string error = int8::CheckMatMul(args);
  Require(error.empty(), error);
  RunMatMul(args, int8::WorkspaceBytes, int8::MatMul, threads);
}

py::array_t<float> Int8MatMul(const Dense<float>& x, const Dense<uint8_t>& packed, const Dense<float>& scale,
                              const OptionalFloats& mean, const OptionalFloats& bias, std::optional<float> x_scale,
                              const std::string& activations, const std::string& activation, int threads) {
  RequireRank(scale, "scale", 1);
  const int64_t n = scale.shape(0);
  int8::MatMulArgs args = MatMulArgsOf(x, packed, n, activations, x_scale);
  if (mean) RequireLength(*mean, "mean", n);
  if (bias) RequireLength(*bias, "bias", n);
  args.scale = scale.data();
  args.mean = mean ? mean->data() : nullptr;
  args.bias = bias ? bias->data() : nullptr;
  args.activation = ParseName<Activation>(activation, "activation", kActivationNames);
  py::array_t<float> y({args.m, n});
  args.y = y.mutable_data();
  RunInt8MatMul(args, threads);
  return y;
}

py::tuple Int8Sums(const Dense<float>& x, const Dense<uint8_t>& packed, int64_t n, std::optional<float> x_scale, int threads) {
  int8::MatMulArgs args = MatMulArgsOf(x, packed, n, x_scale ? "static" : "dynamic", x_scale);
  py::array_t<int32_t> sums({args.m, n});
  py::array_t<float> row_scale(args.m);
  args.y = sums.mutable_data();
  args.y_type = ElementType::kInt32;
  args.row_scale = row_scale.mutable_data();
  if (n == 0) std::fill_n(args.row_scale, args.m, 0.0f);
  RunInt8MatMul(args, threads);
  return py::make_tuple(sums, row_scale);
}

// ---- Sparse ------------------------------------------------------------------------------------------------------------------

sparse::Values SparseValuesOf(const py::array& values) {
  // Compared by value: files are read into arrays with a dtype object of their own.
  if (values.dtype().equal(py::dtype::of<float>())) return sparse::Values::kFloat32;
  if (values.dtype().equal(py::dtype::of<uint16_t>())) return sparse::Values::kBFloat16;
  Require(values.dtype().equal(py::dtype::of<int8_t>()), "`values` must be float32, uint16 (the bits of bfloat16) or int8.");
  return sparse::Values::kInt8;
}

py::dtype SparseDtype(sparse::Values values) {
  return values == sparse::Values::kFloat32    ? py::dtype::of<float>()
         : values == sparse::Values::kBFloat16 ? py::dtype::of<uint16_t>()
                                               : py::dtype::of<int8_t>();
}

template <typename T>
py::array_t<T> ArrayOf(const std::vector<T>& values) {
  py::array_t<T> array(static_cast<py::ssize_t>(values.size()));
  std::copy(values.begin(), values.end(), array.mutable_data());
  return array;
}

py::tuple SparsePack(const py::array& weights, int64_t reach) {
  RequireRank(weights, "weights", 2);
  const py::array dense = py::array::ensure(weights, py::array::c_style);
  const sparse::Values values = SparseValuesOf(dense);
  const int64_t k = dense.shape(0), n = dense.shape(1);
  Require(k <= sparse::MostInFeatures(values), "`weights` must have at most " + std::to_string(sparse::MostInFeatures(values)) +
                                                   " rows; received shape " + ShapeOf(dense) + ".");
  Require(reach == 64 || (reach == 128 && values == sparse::Values::kInt8), "`reach` must be 64, or with int8 weights 128.");
  sparse::Packed packed;
  {
    py::gil_scoped_release release;
    packed = sparse::Pack(dense.data(), values, reach, k, n);
  }
  const auto steps = static_cast<py::ssize_t>(packed.windows.size());
  py::array stored(SparseDtype(values), std::vector<py::ssize_t>{steps, sparse::StepEntries(values)});
  std::copy(packed.values.begin(), packed.values.end(), static_cast<char*>(stored.mutable_data()));
  return py::make_tuple(ArrayOf(packed.Structure()), stored);
}

// A structure holds int32 numbers: a view into the middle of an array may have to be copied.
Dense<uint8_t> Aligned(const Dense<uint8_t>& structure) {
  const bool aligned = reinterpret_cast<uintptr_t>(structure.data()) % alignof(int32_t) == 0;
  return aligned ? structure : Dense<uint8_t>(structure.attr("copy")());
}

// The arrays of a packed matrix, whose sizes must go together.
sparse::Matrix SparseMatrix(const Dense<uint8_t>& structure, const py::array& values, int64_t k, int64_t reach) {
  sparse::Matrix a;
  a.values_type = SparseValuesOf(values);
  a.reach = reach;
  a.k = k;
  RequireRank(structure, "structure", 1);
  Require(values.ndim() == 2 && values.shape(1) == sparse::StepEntries(a.values_type),
          "`values` must have shape (steps, " + std::to_string(sparse::StepEntries(a.values_type)) + "); received shape " +
              ShapeOf(values) + ".");
  a.steps = values.shape(0);
  a.values = values.data();
  std::string error = sparse::SetStructure(structure.data(), structure.shape(0), &a);
  if (error.empty()) error = sparse::CheckMatrix(&a);
  Require(error.empty(), error);
  return a;
}

py::array SparseUnpack(const Dense<uint8_t>& structure, const py::array& values, int64_t k, int64_t reach) {
  const py::array contiguous = py::array::ensure(values, py::array::c_style);
  const Dense<uint8_t> aligned = Aligned(structure);
  const sparse::Matrix matrix = SparseMatrix(aligned, contiguous, k, reach);
  py::array weights(SparseDtype(matrix.values_type), std::vector<py::ssize_t>{k, matrix.n});
  void* to = weights.mutable_data();
  py::gil_scoped_release release;
  sparse::Unpack(matrix, to);
  return weights;
}

py::array SparseMatMul(const Dense<float>& x, const Dense<uint8_t>& structure, const py::array& values, const OptionalFloats& scale,
                       const OptionalFloats& bias, std::optional<float> x_scale, const std::string& activation, int64_t reach, bool sums,
                       int threads) {
  RequireTier();
  RequireRank(x, "x", 2);
  const py::array contiguous = py::array::ensure(values, py::array::c_style);
  sparse::MatMulArgs args;
  args.m = x.shape(0);
  args.x = x.data();
  args.x_stride = x.shape(1);
  const Dense<uint8_t> aligned = Aligned(structure);
  args.matrix = SparseMatrix(aligned, contiguous, x.shape(1), reach);
  const int64_t n = args.y_stride = args.matrix.n;
  const bool is_int8 = args.matrix.values_type == sparse::Values::kInt8;
  Require(scale.has_value() == (is_int8 && !sums), "`scale` must be given if and only if `values` are int8.");
  Require(!x_scale || is_int8, "`x_scale` goes with int8 `values` only.");
  if (scale) RequireLength(*scale, "scale", n);
  if (bias) RequireLength(*bias, "bias", n);
  args.scale = scale ? scale->data() : nullptr;
  args.bias = bias ? bias->data() : nullptr;
  args.activations = x_scale ? sparse::Activations::kStatic : sparse::Activations::kDynamic;
  args.x_scale = x_scale.value_or(0.0f);
  args.activation = ParseName<Activation>(activation, "activation", kActivationNames);
  py::array y(sums ? py::dtype::of<int32_t>() : py::dtype::of<float>(), std::vector<py::ssize_t>{args.m, n});
  args.y = y.mutable_data();
  args.y_type = sums ? ElementType::kInt32 : ElementType::kFloat32;
  const std::string error = sparse::CheckMatMul(&args);
  Require(error.empty(), error);
  RunMatMul(args, sparse::WorkspaceBytes, sparse::MatMul, threads);
  return y;
}

py::list SparseVariants() {
  py::list variants;
  for (int t = 0; t < static_cast<int>(Tier::kCount); ++t) {
    const auto tier = static_cast<Tier>(t);
    const sparse::Kernels& kernels = sparse::KernelsFor(tier);
    py::dict row;
    row["tier"] = kTierNames[t];
    row["available"] = t <= static_cast<int>(DetectedTier());
    for (int v = 0; v < sparse::kNumValues; ++v) {
      std::string text = kernels.rows_step[v];
      const int64_t from = sparse::ColumnsFrom(tier, static_cast<sparse::Values>(v));
      if (from != sparse::kNever) text += "; from " + std::to_string(from) + " rows on " + kernels.columns_step;
      row[sparse::kValuesNames[v]] = text;
    }
    variants.append(row);
  }
  return variants;
}

py::dict CpuInfoDict() {
  const CpuInfo info = GetCpuInfo();
  std::string error;
  const Tier tier = ActiveTier(&error);
  Require(error.empty(), error);
  std::vector<std::string> tiers;
  for (int t = 0; t <= static_cast<int>(DetectedTier()); ++t) tiers.push_back(kTierNames[t]);
  py::dict dict;
  dict["vendor"] = info.vendor;
  dict["model_name"] = info.model_name;
  dict["features"] = info.features;
  dict["tiers"] = tiers;
  dict["tier"] = kTierNames[static_cast<int>(tier)];
  dict["num_cpus"] = info.num_cpus;
  dict["l1d_bytes"] = info.l1d_bytes;
  dict["l2_bytes"] = info.l2_bytes;
  dict["l3_bytes"] = info.l3_bytes;
  return dict;
}

py::list Int8Variants() {
  py::list variants;
  for (int t = 0; t < static_cast<int>(Tier::kCount); ++t) {
    const int8::Kernels& kernels = int8::KernelsFor(static_cast<Tier>(t));
    py::dict row;
    row["tier"] = kTierNames[t];
    row["available"] = t <= static_cast<int>(DetectedTier());
    row["dynamic"] = kernels.integer_step;
    row["static"] = kernels.integer_step;
    row["float"] = kernels.float_step;
    variants.append(row);
  }
  return variants;
}

py::dict MeasurePeaksDict(int threads) {
  RequireTier();
  Peaks peaks;
  Pools().With(threads, [&](ThreadPool* pool) { peaks = MeasurePeaks(ActiveTier(), pool); });
  py::dict dict;
  dict["float32_gflops"] = peaks.float32_gflops;
  dict["int8_gops"] = peaks.int8_gops;
  dict["binary_gops"] = peaks.binary_gops;
  dict["l2_read_gbs"] = peaks.l2_read_gbs;
  dict["dram_read_gbs"] = peaks.dram_read_gbs;
  return dict;
}

// What would run on a GPU, which need not be there.
py::dict Int8GpuPlan(int64_t m, int64_t k, int64_t n, int compute_capability, int multiprocessors, int64_t shared_bytes_per_block) {
  if (m < 1 || k < 0 || k > int8::kMaxInFeatures || n < 1) {
    throw py::value_error("`m` and `n` must be >= 1 and `k` from 0 to " + std::to_string(int8::kMaxInFeatures) + "; received " + std::to_string(m) +
                          ", " + std::to_string(n) + " and " + std::to_string(k) + ".");
  }
  const CudaDevice device = {compute_capability, multiprocessors, shared_bytes_per_block};
  int8::CudaMatMulArgs args;
  args.matmul.m = m;
  args.matmul.k = k;
  args.matmul.n = n;
  const int8::CudaWorkspace space = int8::LayOutWorkspace(args, device);
  py::dict plan;
  plan["quantized_first"] = space.x > 0;
  plan["workspace_bytes"] = space.bytes;
  if (m <= int8::kGemvRows) {
    const int8::GemvPlan gemv = int8::PlanGemv(args.matmul, device);
    plan["kernel"] = "GEMV";
    plan["rows"] = int8::GemvRows(m);
    plan["columns"] = gemv.columns;
    plan["splits"] = 1;
    plan["blocks"] = gemv.blocks;
    return plan;
  }
  const GemmPlan gemm = PlanGemm(int8::kGemmTable, m, int8::RoundUp(k, int8::kGemmDepth) / int8::kGemmDepth, n, device);
  plan["kernel"] = "GEMM";
  plan["rows"] = int8::kGemmTiles[gemm.tile].rows;
  plan["columns"] = int8::kGemmTiles[gemm.tile].columns;
  plan["splits"] = gemm.splits;
  plan["blocks"] = gemm.blocks;
  return plan;
}

py::dict SparseGpuPlan(int64_t m, int64_t k, int64_t n, int64_t steps, const std::string& values, int64_t reach, bool tensor_float, int compute_capability,
                       int multiprocessors, int64_t shared_bytes_per_block) {
  sparse::CudaMatMulArgs args;
  args.tensor_float = tensor_float;
  args.matmul.m = m;
  sparse::Matrix& matrix = args.matmul.matrix;
  matrix.values_type = ParseName<sparse::Values>(values, "values", sparse::kValuesNames);
  matrix.reach = reach;
  matrix.k = k;
  matrix.n = n;
  matrix.steps = steps;
  const std::string error = sparse::CheckCudaMatrix(matrix);
  Require(error.empty() && m > 0 && n > 0 && steps >= 0, error.empty() ? "`m` and `n` must be >= 1 and `steps` >= 0." : error);
  const sparse::ProductPlan product = sparse::PlanProduct(args, {compute_capability, multiprocessors, shared_bytes_per_block});
  py::dict plan;
  plan["workspace_bytes"] = sparse::LayOutWorkspace(args, product).bytes;
  plan["splits"] = product.tensor.splits;
  if (product.product == sparse::Product::kTensor) {
    const GemmTile& tile = sparse::kTensorTiles[product.tensor.tile];
    plan["kernel"] = "tensor";
    plan["rows"] = tile.rows;
    plan["columns"] = tile.columns;
    plan["warp_rows"] = tile.warp_rows;
    plan["warp_columns"] = tile.warp_columns;
  } else if (product.product == sparse::Product::kColumns) {
    plan["kernel"] = "columns";
    plan["rows"] = sparse::kColumnsRows;
    plan["columns"] = sparse::kLanes * sparse::PlanColumns(matrix, m, {compute_capability, multiprocessors, shared_bytes_per_block}).warps;
  } else {
    plan["kernel"] = "gather";
    plan["rows"] = sparse::PlanGather(matrix, m).rows;
    plan["columns"] = sparse::kLanes;
  }
  return plan;
}

PYBIND11_MODULE(_kernels, m) {
  m.doc() = "The kernel library of tfcompress_ops on NumPy arrays.";
  m.def("int8_packed_size", &Int8PackedSize, py::arg("in_features"), py::arg("out_features"),
        "Bytes of a packed int8 kernel [in_features, out_features].");
  m.def("int8_pack", &Int8Pack, py::arg("weights"), "Packs int8 weights [K, N] into uint8 [int8_packed_size(K, N)].");
  m.def("int8_unpack", &Int8Unpack, py::arg("packed"), py::arg("in_features"), py::arg("out_features"),
        "The exact inverse of int8_pack: int8 [K, N].");
  m.def("int8_quantize_pack", &Int8QuantizePack, py::arg("kernel"), py::arg("center") = false,
        "Quantises float32 [K, N] per output and packs it: (packed, scale [N], mean [N] or None).");
  m.def("int8_matmul", &Int8MatMul, py::arg("x"), py::arg("packed"), py::arg("scale"), py::arg("mean") = py::none(),
        py::arg("bias") = py::none(), py::arg("x_scale") = py::none(), py::arg("activations") = "dynamic",
        py::arg("activation") = "linear", py::arg("threads") = 1,
        "activation(x_scale * (scale * (x_q @ w_q) + mean * rowsum(x_q)) + bias) as float32 [M, N]; x is float32 [M, K].");
  m.def("int8_sums", &Int8Sums, py::arg("x"), py::arg("packed"), py::arg("out_features"), py::arg("x_scale") = py::none(),
        py::arg("threads") = 1, "The exact integer sums x_q @ w_q as int32 [M, N], and the scales of the rows of x as float32 [M].");
  m.def("cpu_info", &CpuInfoDict, "What the CPU is, which instruction-set tiers it runs, and which one is in force.");
  m.def("int8_variants", &Int8Variants, "Which inner steps each tier uses for int8 weights.");
  m.def("int8_gpu_plan", &Int8GpuPlan, py::arg("m"), py::arg("k"), py::arg("n"), py::arg("compute_capability"), py::arg("multiprocessors"),
        py::arg("shared_bytes_per_block"), "Which kernel and tile would multiply [m, k] by int8 weights [k, n] on a GPU.");
  m.def("sparse_pack", &SparsePack, py::arg("weights"), py::arg("reach") = 64,
        "Packs the nonzeros of float32, uint16 (bfloat16 bits) or int8 weights [K, N]: (structure, values).");
  m.def("sparse_unpack", &SparseUnpack, py::arg("structure"), py::arg("values"), py::arg("in_features"), py::arg("reach") = 64,
        "The exact inverse of sparse_pack: weights [K, N] of the type of `values`.");
  m.def("sparse_matmul", &SparseMatMul, py::arg("x"), py::arg("structure"), py::arg("values"), py::arg("scale") = py::none(),
        py::arg("bias") = py::none(), py::arg("x_scale") = py::none(), py::arg("activation") = "linear", py::arg("reach") = 64,
        py::arg("sums") = false, py::arg("threads") = 1,
        "activation(x_scale * scale * (x_q @ w) + bias) as float32 [M, N], or with `sums` the exact integer sums as int32; x is float32 "
        "[M, K].");
  m.def("sparse_gpu_plan", &SparseGpuPlan, py::arg("m"), py::arg("k"), py::arg("n"), py::arg("steps"), py::arg("values"), py::arg("reach"),
        py::arg("tensor_float"), py::arg("compute_capability"), py::arg("multiprocessors"), py::arg("shared_bytes_per_block"),
        "Which kernel and tile would multiply [m, k] by pruned weights [k, n] of so many steps on a GPU.");
  m.def("sparse_variants", &SparseVariants, "Which kernels each tier uses for pruned weights.");
  BindBinary(m);
  m.def("measure_peaks", &MeasurePeaksDict, py::arg("threads") = 1,
        "Measures this machine's limits: rates of float32 multiply-adds, int8 and binary dot products of the tier in force, read bandwidths.");
}

}  // namespace
}  // namespace tfcompress
