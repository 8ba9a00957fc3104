// Picks the kernels for the tier in force, cuts the output into balanced blocks and runs them on the caller's threads.
#include <new>

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

// Cycles, roughly, that a core takes per byte of packed weights that it streams and per activation that it prepares.
constexpr double kCyclesPerWeightByte = 1.0 / 16;
constexpr double kCyclesPerActivation = 0.8;

GridCosts CostsOf(const MatMulArgs& args, const Kernels& kernels) {
  const bool integer = args.activations != Activations::kFloat;
  const double panel_bytes = static_cast<double>(kPanelWidth * args.k);
  GridCosts costs;
  costs.m = args.m;
  costs.panels = NumPanels(args.n);
  costs.most_rows = MostRowsHeld(args);
  costs.row_cycles = panel_bytes / (integer ? kernels.macs_per_cycle : kernels.float_macs_per_cycle);
  costs.stream_cycles = panel_bytes * kCyclesPerWeightByte;
  costs.prepare_cycles = static_cast<double>(args.k) * kCyclesPerActivation;
  return costs;
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
  const Grid grid = MakeGrid(CostsOf(args, kernels), num_threads);
  return grid.threads * RoundUp(ScratchBytes(args, kernels, grid.rows_per_part), 64);
}

void MatMul(const MatMulArgs& args, void* workspace, ThreadPool* pool) {
  if (args.m == 0 || args.n == 0) return;
  const Kernels& kernels = KernelsFor(ActiveTier());
  const GridCosts costs = CostsOf(args, kernels);
  const Grid grid = MakeGrid(costs, pool->NumThreads());
  const bool integer = args.activations != Activations::kFloat;
  const auto multiply = integer ? kernels.multiply_integer : kernels.multiply_float;
  const int64_t scratch_bytes = RoundUp(ScratchBytes(args, kernels, grid.rows_per_part), 64);
  const auto scratch_of = [&](int64_t worker) { return static_cast<char*>(workspace) + worker * scratch_bytes; };
  for (int64_t worker = 0; integer && worker < grid.threads; ++worker) new (scratch_of(worker)) ScratchHeader;
  RunGrid(costs, grid, pool, [&](const Block& block, int worker) { multiply(args, block, scratch_of(worker)); });
}

}  // namespace tfcompress::int8
