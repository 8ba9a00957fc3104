// csrc/formats/binary on NumPy arrays.
#include <algorithm>

#include "formats/binary/binary.h"
#include "formats/binary/cuda.h"
#include "formats/binary/kernels.h"
#include "python/module_support.h"

namespace tfcompress {
namespace {

using binary::Levels;

constexpr const char* kRuleNames[] = {"sign", "twn", "absmean"};

Levels LevelsOf(const std::string& levels) { return ParseName<Levels>(levels, "levels", binary::kLevelsNames); }

int64_t PackedSize(int64_t k, int64_t n, const std::string& levels) {
  Require(k >= 0 && k <= binary::kMaxInFeatures, "`in_features` must be from 0 to " + std::to_string(binary::kMaxInFeatures) +
                                                     ", so that integer sums fit into int32; received " + std::to_string(k) + ".");
  Require(n >= 0 && n < (int64_t{1} << 36), "`out_features` must be >= 0; received " + std::to_string(n) + ".");
  return binary::PackedBytes(LevelsOf(levels), k, n);
}

py::array_t<uint8_t> Pack(const Dense<int8_t>& weights, const std::string& levels) {
  RequireRank(weights, "weights", 2);
  const int64_t k = weights.shape(0), n = weights.shape(1);
  const Levels kind = LevelsOf(levels);
  py::array_t<uint8_t> packed(PackedSize(k, n, levels));
  const int8_t* from = weights.data();
  const bool fit = std::all_of(from, from + k * n, [&](int8_t w) { return kind == Levels::kBinary ? w == 1 || w == -1 : w >= -1 && w <= 1; });
  Require(fit, "`weights` must be -1 or 1, or with levels='ternary' -1, 0 or 1; received others.");
  uint8_t* to = packed.mutable_data();
  py::gil_scoped_release release;
  binary::Pack(kind, from, k, n, to);
  return packed;
}

py::array_t<int8_t> Unpack(const Dense<uint8_t>& packed, int64_t k, int64_t n, const std::string& levels) {
  RequireLength(packed, "packed", PackedSize(k, n, levels));
  py::array_t<int8_t> weights({k, n});
  const uint8_t* from = packed.data();
  int8_t* to = weights.mutable_data();
  const Levels kind = LevelsOf(levels);
  py::gil_scoped_release release;
  binary::Unpack(kind, from, k, n, to);
  return weights;
}

py::tuple QuantizePack(const Dense<float>& kernel, const std::string& rule_name, bool center) {
  RequireRank(kernel, "kernel", 2);
  const auto rule = ParseName<binary::Rule>(rule_name, "rule", kRuleNames);
  Require(!center || rule == binary::Rule::kSign, "`center` goes with rule='sign' only.");
  const int64_t k = kernel.shape(0), n = kernel.shape(1);
  py::array_t<uint8_t> packed(PackedSize(k, n, rule == binary::Rule::kSign ? "binary" : "ternary"));
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
    finite = binary::QuantizeAndPack(rule, from, k, n, to, scales, means);
  }
  Require(finite, "`kernel` must be finite; received a NaN, an infinity, or values whose range overflows float32.");
  return py::make_tuple(packed, scale, mean);
}

py::array MatMul(const py::array& x, const Dense<uint8_t>& packed, const Dense<float>& scale, int64_t in_features, const OptionalFloats& mean,
                 const OptionalFloats& bias, const std::optional<Dense<int32_t>>& threshold, const std::string& levels,
                 const std::string& activations, bool scale_x, const std::string& activation, bool sums, int threads) {
  RequireTier();
  RequireRank(x, "x", 2);
  RequireRank(scale, "scale", 1);
  binary::MatMulArgs args;
  args.m = x.shape(0);
  args.k = in_features;
  args.n = scale.shape(0);
  args.levels = LevelsOf(levels);
  RequireLength(packed, "packed", PackedSize(args.k, args.n, levels));
  const bool signs = x.dtype().equal(py::dtype::of<uint32_t>());
  const int64_t columns = signs ? binary::SignWords(args.k) : args.k;
  Require(x.shape(1) == columns, "`x` must have " + std::to_string(columns) + " columns for in_features = " + std::to_string(args.k) +
                                     "; received shape " + ShapeOf(x) + ".");
  Dense<float> floats;
  Dense<uint32_t> words;
  if (signs) {
    words = Dense<uint32_t>(x);
    args.x_signs = words.data();
  } else {
    floats = Dense<float>(x);
    args.x = floats.data();
    args.x_stride = args.k;
  }
  if (mean) RequireLength(*mean, "mean", args.n);
  if (bias) RequireLength(*bias, "bias", args.n);
  if (threshold) RequireLength(*threshold, "threshold", args.n);
  args.kernel = packed.data();
  args.scale = scale.data();
  args.mean = mean ? mean->data() : nullptr;
  args.bias = bias ? bias->data() : nullptr;
  args.activations = ParseName<binary::Activations>(activations, "activations", binary::kActivationsNames);
  args.scale_x = scale_x;
  args.activation = ParseName<Activation>(activation, "activation", kActivationNames);
  args.y_stride = args.n;
  Require(!(sums && threshold), "`threshold` and `sums` do not go together.");
  py::array y(threshold ? py::dtype::of<uint32_t>() : sums ? py::dtype::of<int32_t>() : py::dtype::of<float>(),
              std::vector<py::ssize_t>{args.m, threshold ? binary::SignWords(args.n) : args.n});
  args.y = y.mutable_data();
  if (threshold) {
    args.y_signs = static_cast<uint32_t*>(args.y);
    args.threshold = threshold->data();
  }
  args.y_type = sums ? ElementType::kInt32 : ElementType::kFloat32;
  const std::string error = binary::CheckMatMul(args);
  Require(error.empty(), error);
  RunMatMul(args, binary::WorkspaceBytes, binary::MatMul, threads);
  return y;
}

py::list Variants() {
  py::list variants;
  for (int t = 0; t < static_cast<int>(Tier::kCount); ++t) {
    const binary::Kernels& kernels = binary::KernelsFor(static_cast<Tier>(t));
    py::dict row;
    row["tier"] = kTierNames[t];
    row["available"] = t <= static_cast<int>(DetectedTier());
    for (int a = 0; a < binary::kNumActivations; ++a) row[binary::kActivationsNames[a]] = kernels.step[a];
    variants.append(row);
  }
  return variants;
}

// What would run on a GPU, which need not be there.
py::dict GpuPlan(int64_t m, int64_t k, int64_t n, const std::string& levels, const std::string& activations, int compute_capability,
                 int multiprocessors, int64_t shared_bytes_per_block) {
  binary::MatMulArgs args;
  args.m = m;
  args.k = k;
  args.n = n;
  args.levels = LevelsOf(levels);
  args.activations = ParseName<binary::Activations>(activations, "activations", binary::kActivationsNames);
  const std::string error = binary::CheckMatMul(args);
  Require(error.empty() && m > 0 && n > 0, error.empty() ? "`m` and `n` must be >= 1." : error);
  const CudaDevice device = {compute_capability, multiprocessors, shared_bytes_per_block};
  py::dict plan;
  plan["workspace_bytes"] = binary::CudaWorkspaceBytes(args, device);
  plan["splits"] = 1;
  plan["counts_bits"] = args.activations == binary::Activations::kBinary && binary::CountsBits(device);
  if (binary::UsesGemv(args, device)) {
    plan["kernel"] = "GEMV";
    plan["rows"] = binary::GemvRows(m);
    plan["columns"] = binary::PlanGemv(args, device).columns;
    return plan;
  }
  plan["kernel"] = "GEMM";
  if (args.activations == binary::Activations::kFloat) {
    plan["rows"] = kFloatTileRows;
    plan["columns"] = kFloatTileColumns;
    plan["splits"] = PlanFloat(m, k, n, device).splits;
    return plan;
  }
  const GemmTable& table = binary::TableOf(args, device);
  const GemmPlan gemm = binary::PlanGemm(args, table, device);
  plan["rows"] = table.tiles[gemm.tile].rows;
  plan["columns"] = table.tiles[gemm.tile].columns;
  plan["splits"] = gemm.splits;
  return plan;
}

}  // namespace

void BindBinary(py::module_& m) {
  m.def("binary_packed_size", &PackedSize, py::arg("in_features"), py::arg("out_features"), py::arg("levels") = "binary",
        "Bytes of packed binary or ternary weights [in_features, out_features].");
  m.def("binary_pack", &Pack, py::arg("weights"), py::arg("levels") = "binary",
        "Packs int8 weights [K, N] of -1 and 1, or -1, 0 and 1, into uint8 [binary_packed_size(K, N, levels)].");
  m.def("binary_unpack", &Unpack, py::arg("packed"), py::arg("in_features"), py::arg("out_features"), py::arg("levels") = "binary",
        "The exact inverse of binary_pack: int8 [K, N].");
  m.def("binary_quantize_pack", &QuantizePack, py::arg("kernel"), py::arg("rule") = "sign", py::arg("center") = false,
        "Makes float32 [K, N] binary ('sign') or ternary ('twn', 'absmean') and packs it: (packed, scale [N], mean [N] or None).");
  m.def("binary_matmul", &MatMul, py::arg("x"), py::arg("packed"), py::arg("scale"), py::arg("in_features"), py::arg("mean") = py::none(),
        py::arg("bias") = py::none(), py::arg("threshold") = py::none(), py::arg("levels") = "binary", py::arg("activations") = "float",
        py::arg("scale_x") = false, py::arg("activation") = "linear", py::arg("sums") = false, py::arg("threads") = 1,
        "activation(x_scale * (scale * (x @ w) + mean * rowsum(x)) + bias) as float32 [M, N]; x is float32 [M, K], or uint32 words of signs. "
        "With `sums` the exact integer sums as int32; with `threshold` the signs of the sums less it, as uint32 words.");
  m.def("binary_gpu_plan", &GpuPlan, py::arg("m"), py::arg("k"), py::arg("n"), py::arg("levels"), py::arg("activations"),
        py::arg("compute_capability"), py::arg("multiprocessors"), py::arg("shared_bytes_per_block"),
        "Which kernel and tile would multiply [m, k] by binary or ternary weights [k, n] on a GPU.");
  m.def("binary_variants", &Variants, "Which inner steps each tier uses for binary and ternary weights, by activations.");
}

}  // namespace tfcompress
