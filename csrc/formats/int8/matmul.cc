// Picks the kernels for the tier in force, cuts the output into balanced blocks and runs them on the caller's threads.
#include <algorithm>

#include "formats/int8/kernels.h"

namespace tfcompress::int8 {

const Kernels& KernelsFor(Tier tier) {
#ifdef TFCOMPRESS_HAVE_X86_TIERS
  switch (tier) {
    case Tier::kAvx512Bf16:
    case Tier::kAvx512Vbmi:
    case Tier::kAvx512Vnni:
      return Avx512VnniKernels();
    case Tier::kAvx512:
      return Avx512Kernels();
    case Tier::kAvx2:
      return Avx2Kernels();
    default:
      break;
  }
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)
  if (tier == Tier::kDotProd) return DotProdKernels();
  if (tier == Tier::kNeon) return NeonKernels();
#endif
  (void)tier;
  return PortableKernels();
}

namespace {

// Cycles, roughly, that a core takes per byte of packed weights that it streams, and per activation that it converts.
constexpr double kCyclesPerWeightByte = 1.0 / 16;
constexpr double kCyclesPerActivation = 0.8;
// Activations of a task that quantises: enough to be worth a task.
constexpr int64_t kActivationsPerTask = 8 * 1024;

// Of the product of `rows` rows. Those of the integer path are prepared before it.
GridCosts CostsOf(const MatMulArgs& args, const Kernels& kernels, int64_t rows) {
  const bool integer = args.activations != Activations::kFloat;
  const double panel_bytes = static_cast<double>(kPanelWidth * args.k);
  GridCosts costs;
  costs.m = rows;
  costs.panels = NumPanels(args.n);
  costs.most_rows = integer ? rows : kFloatBlockRows;
  costs.row_cycles = panel_bytes / (integer ? kernels.macs_per_cycle : kernels.float_macs_per_cycle);
  costs.stream_cycles = panel_bytes * kCyclesPerWeightByte;
  costs.prepare_cycles = integer ? 0.0 : static_cast<double>(args.k) * kCyclesPerActivation;
  return costs;
}

void QuantizeOnThreads(const MatMulArgs& args, const Kernels& kernels, int64_t row_begin, int64_t row_end, const QuantizedRows& quantized,
                       ThreadPool* pool) {
  const int64_t rows = row_end - row_begin;
  if (rows == 1 || rows * args.k < kLeastSharedActivations) return kernels.quantize_rows(args, row_begin, row_end, quantized);
  const int64_t tasks = std::min(rows, rows * args.k / kActivationsPerTask);
  pool->Run(1, tasks, [&](int64_t, int64_t i, int) {
    kernels.quantize_rows(args, row_begin + rows * i / tasks, row_begin + rows * (i + 1) / tasks, quantized);
  });
}

void MatMulInteger(const MatMulArgs& args, const Kernels& kernels, void* workspace, ThreadPool* pool) {
  const int64_t at_a_time = QuantizedRowsAtATime(args, kernels);
  for (int64_t first = 0; first < args.m; first += at_a_time) {
    const int64_t rows = std::min(at_a_time, args.m - first);
    const QuantizedRows quantized = QuantizedRowsIn(workspace, args, kernels, first, rows);
    QuantizeOnThreads(args, kernels, first, first + rows, quantized, pool);
    const GridCosts costs = CostsOf(args, kernels, rows);
    RunGrid(costs, MakeGrid(costs, pool->NumThreads()), pool, [args, &kernels, first, quantized](const Block& block, int) {
      kernels.multiply_integer(args, {first + block.row_begin, first + block.row_end, block.panel_begin, block.panel_end}, quantized);
    });
  }
}

void MatMulFloat(const MatMulArgs& args, const Kernels& kernels, void* workspace, ThreadPool* pool) {
  const GridCosts costs = CostsOf(args, kernels, args.m);
  const Grid grid = MakeGrid(costs, pool->NumThreads());
  const int64_t scratch_bytes = RoundUp(FloatScratchBytes(args, grid.rows_per_part), 64);
  const auto scratch_of = [=](int64_t worker) { return static_cast<char*>(workspace) + worker * scratch_bytes; };
  for (int64_t worker = 0; worker < grid.threads; ++worker) reinterpret_cast<PreparedRows*>(scratch_of(worker))->first = -1;
  RunGrid(costs, grid, pool, [=, &kernels](const Block& block, int worker) {
    kernels.multiply_float(args, block, scratch_of(worker));
  });
}

}  // namespace

std::string CheckMatMul(const MatMulArgs& args) {
  if (args.m < 0 || args.k < 0 || args.n < 0) {
    return "sizes must be >= 0; received m = " + std::to_string(args.m) + ", k = " + std::to_string(args.k) +
           ", n = " + std::to_string(args.n);
  }
  if (args.k > kMaxInFeatures) {
    return "in_features must be at most " + std::to_string(kMaxInFeatures) +
           ", so that integer sums fit into int32; received " + std::to_string(args.k);
  }
  const bool raw_sums = args.y_type == ElementType::kInt32;
  if ((raw_sums || args.row_scale != nullptr) && args.activations == Activations::kFloat) {
    return "integer sums and row scales exist only where activations are quantised";
  }
  if (args.activations == Activations::kStatic) return CheckXScale(args.x_scale);
  return "";
}

int64_t WorkspaceBytes(const MatMulArgs& args, int num_threads) {
  if (args.m == 0 || args.n == 0) return 0;
  const Kernels& kernels = KernelsFor(ActiveTier());
  if (args.activations != Activations::kFloat) return QuantizedRowsBytes(args, kernels, QuantizedRowsAtATime(args, kernels));
  const Grid grid = MakeGrid(CostsOf(args, kernels, args.m), num_threads);
  return grid.threads * RoundUp(FloatScratchBytes(args, grid.rows_per_part), 64);
}

void MatMul(const MatMulArgs& args, void* workspace, ThreadPool* pool) {
  if (args.m == 0 || args.n == 0) return;
  const Kernels& kernels = KernelsFor(ActiveTier());
  const auto multiply = args.activations != Activations::kFloat ? MatMulInteger : MatMulFloat;
  multiply(args, kernels, workspace, pool);
}

}  // namespace tfcompress::int8
