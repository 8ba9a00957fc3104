// Picks the kernels for the tier in force, cuts the output into balanced blocks and runs them on the caller's threads.
#include <new>

#include "formats/binary/kernels.h"

namespace tfcompress::binary {

const Kernels& KernelsFor(Tier tier) {
#ifdef TFCOMPRESS_HAVE_X86_TIERS
  switch (tier) {
    case Tier::kAvx512Bf16:
    case Tier::kAvx512Vbmi:
      return Avx512VbmiKernels();
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

// Cycles, roughly, that a core takes per byte of packed weights that it streams, and to prepare an activation.
constexpr double kCyclesPerWeightByte = 1.0 / 16;
constexpr double kCyclesPerActivation[kNumActivations] = {1.5, 0.8, 0.15};

GridCosts CostsOf(const MatMulArgs& args, const Kernels& kernels) {
  const auto a = static_cast<size_t>(args.activations);
  const auto macs = static_cast<double>(kPanelWidth * args.k);
  GridCosts costs;
  costs.m = args.m;
  costs.panels = NumPanels(args.n);
  costs.most_rows = MostRows(args.activations);
  // The other kinds of activations take a step of 4 bits or a byte for a ternary weight as for a binary one.
  costs.row_cycles = macs / kernels.macs_per_cycle[a] * (args.activations == Activations::kFloat ? BitsOf(args.levels) : 1);
  costs.stream_cycles = macs / 8 * BitsOf(args.levels) * kCyclesPerWeightByte;
  costs.prepare_cycles = args.x_signs != nullptr ? 0.0 : static_cast<double>(args.k) * kCyclesPerActivation[a];
  return costs;
}

}  // namespace

std::string CheckMatMul(const MatMulArgs& args) {
  if (args.m < 0 || args.k < 0 || args.n < 0) {
    return "sizes must be >= 0; received m = " + std::to_string(args.m) + ", k = " + std::to_string(args.k) +
           ", n = " + std::to_string(args.n);
  }
  if (args.k > kMaxInFeatures) {
    return "in_features must be at most " + std::to_string(kMaxInFeatures) + ", so that integer sums fit into int32; received " +
           std::to_string(args.k);
  }
  const bool binary = args.activations == Activations::kBinary;
  if (binary && args.levels != Levels::kBinary) return "activations can be binary only where weights are; received ternary weights";
  if (!binary && (args.x_signs != nullptr || args.y_signs != nullptr || args.scale_x)) {
    return "packed signs, thresholds and scales of binary rows exist only where activations are binary";
  }
  if (args.scale_x && (args.x_signs != nullptr || args.y_signs != nullptr)) {
    return "rows can be scaled by their mean magnitude only where they come and leave as numbers, not as packed signs";
  }
  const bool raw_sums = args.y_type == ElementType::kInt32;
  if ((raw_sums || args.row_scale != nullptr) && args.activations == Activations::kFloat) {
    return "integer sums and row scales exist only where activations are quantised or binary";
  }
  return "";
}

int64_t WorkspaceBytes(const MatMulArgs& args, int num_threads) {
  if (args.m == 0 || args.n == 0) return 0;
  const Grid grid = MakeGrid(CostsOf(args, KernelsFor(ActiveTier())), num_threads);
  return grid.threads * RoundUp(ScratchBytes(args, grid.rows_per_part), 64);
}

void MatMul(const MatMulArgs& args, void* workspace, ThreadPool* pool) {
  if (args.m == 0 || args.n == 0) return;
  const Kernels& kernels = KernelsFor(ActiveTier());
  const GridCosts costs = CostsOf(args, kernels);
  const Grid grid = MakeGrid(costs, pool->NumThreads());
  const Multiply multiply = kernels.multiply[static_cast<int>(args.levels)][static_cast<int>(args.activations)];
  const int64_t scratch_bytes = RoundUp(ScratchBytes(args, grid.rows_per_part), 64);
  const auto scratch_of = [=](int64_t worker) { return static_cast<char*>(workspace) + worker * scratch_bytes; };
  for (int64_t worker = 0; worker < grid.threads; ++worker) new (scratch_of(worker)) ScratchHeader;
  RunGrid(costs, grid, pool, [=](const Block& block, int worker) { multiply(args, block, scratch_of(worker)); });
}

}  // namespace tfcompress::binary
