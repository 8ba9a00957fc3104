// Picks the kernels for the tier in force, cuts the output into balanced blocks and runs them on the caller's threads.
#include <algorithm>
#include <cmath>

#include "formats/int8/kernels.h"

namespace tfcompress::int8 {

const Kernels& KernelsFor(Tier tier) {
#ifdef TFCOMPRESS_HAVE_X86_TIERS
  switch (tier) {
    case Tier::kAvx512Vnni:
      return Avx512VnniKernels();
    case Tier::kAvx512:
      return Avx512Kernels();
    case Tier::kAvx2:
      return Avx2Kernels();
    default:
      break;
  }
#endif
  (void)tier;
  return PortableKernels();
}

namespace {

struct Plan {
  int64_t row_parts = 1;
  int64_t panel_parts = 1;
  int64_t rows_per_part = 0;  // the largest
};

// Cycles, all roughly: what a second thread costs to wake, and what a core does per byte of packed weights that it streams and per
// activation that it quantises.
constexpr double kForkCycles = 12000.0;
constexpr double kCyclesPerWeightByte = 1.0 / 16;
constexpr double kCyclesPerActivation = 0.4;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Splitting rows makes every task read all weights; splitting panels makes every task quantise all activations. The plan is the
// grid whose slowest task is estimated to end first.
Plan MakePlan(const MatMulArgs& args, const Kernels& kernels, int num_threads) {
  const bool integer = args.activations != Activations::kFloat;
  const double macs_per_cycle = integer ? kernels.macs_per_cycle : kernels.float_macs_per_cycle;
  const int64_t panels = NumPanels(args.n);
  Plan best;
  double best_cycles = HUGE_VAL;
  for (int64_t row_parts = 1; row_parts <= std::min<int64_t>(num_threads, args.m); ++row_parts) {
    const int64_t panel_parts = std::min<int64_t>(num_threads / row_parts, panels);
    for (const int64_t parts : {int64_t{1}, panel_parts}) {
      const double rows = static_cast<double>(DivideUp(args.m, row_parts));
      const double weights = static_cast<double>(DivideUp(panels, parts) * kPanelWidth * args.k);
      const double cycles = std::max(rows * weights / macs_per_cycle, weights * kCyclesPerWeightByte) +
                            rows * static_cast<double>(args.k) * kCyclesPerActivation +
                            (row_parts * parts > 1 ? kForkCycles : 0.0);
      if (cycles < best_cycles) {
        best_cycles = cycles;
        best = {row_parts, parts, DivideUp(args.m, row_parts)};
      }
    }
  }
  if (best.rows_per_part == 0) best.rows_per_part = args.m;
  return best;
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
  if (args.activations == Activations::kStatic && !(args.x_scale >= 0x1p-126f && args.x_scale <= 0x1p+100f)) {
    return "x_scale must be a finite number of at least 2^-126 and at most 2^100; received " + std::to_string(args.x_scale);
  }
  return "";
}

int64_t WorkspaceBytes(const MatMulArgs& args, int num_threads) {
  if (args.m == 0 || args.n == 0) return 0;
  const Kernels& kernels = KernelsFor(ActiveTier());
  const Plan plan = MakePlan(args, kernels, num_threads);
  return plan.row_parts * plan.panel_parts * RoundUp(ScratchBytes(args, kernels, plan.rows_per_part), 64);
}

void MatMul(const MatMulArgs& args, void* workspace, ThreadPool* pool) {
  if (args.m == 0 || args.n == 0) return;
  const Kernels& kernels = KernelsFor(ActiveTier());
  const Plan plan = MakePlan(args, kernels, pool->NumThreads());
  const auto multiply =
      args.activations == Activations::kFloat ? kernels.multiply_float : kernels.multiply_integer;
  const int64_t scratch_bytes = RoundUp(ScratchBytes(args, kernels, plan.rows_per_part), 64);
  const int64_t panels = NumPanels(args.n);
  const int64_t tasks = plan.row_parts * plan.panel_parts;
  const auto task = [&](int64_t i) {
    const int64_t row_part = i / plan.panel_parts;
    const int64_t panel_part = i % plan.panel_parts;
    const Block block = {args.m * row_part / plan.row_parts, args.m * (row_part + 1) / plan.row_parts,
                         panels * panel_part / plan.panel_parts, panels * (panel_part + 1) / plan.panel_parts};
    multiply(args, block, static_cast<char*>(workspace) + i * scratch_bytes);
  };
  if (tasks == 1) {
    task(0);
  } else {
    pool->Run(tasks, task);
  }
}

}  // namespace tfcompress::int8
