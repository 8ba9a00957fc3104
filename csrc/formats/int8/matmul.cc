// Picks the kernels for the tier in force, cuts the output into balanced blocks and runs them on the caller's threads.
#include <algorithm>
#include <cmath>
#include <new>

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

// The output is cut into row_parts groups of panel_parts tasks.
struct Plan {
  int64_t row_parts = 1;
  int64_t panel_parts = 1;
  int64_t rows_per_part = 0;  // the largest
};

// Cycles, all roughly: what work on a second core costs beside the work, and what a core does per byte of packed weights that it
// streams and per activation that it quantises.
constexpr double kForkCycles = 5000.0;
constexpr double kCyclesPerWeightByte = 1.0 / 16;
constexpr double kCyclesPerActivation = 0.4;
// Panels are dealt out in smaller parts than threads need, since threads are rarely equally fast; but not in crumbs.
constexpr int64_t kPartsPerThread = 8;
constexpr double kLeastPartCycles = 2000.0;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Splitting rows makes every group read all weights; splitting panels makes every thread quantise all activations. The plan is the
// grid whose slowest thread is estimated to end first.
Plan MakePlan(const MatMulArgs& args, const Kernels& kernels, int num_threads) {
  const bool integer = args.activations != Activations::kFloat;
  const double macs_per_cycle = integer ? kernels.macs_per_cycle : kernels.float_macs_per_cycle;
  const int64_t panels = NumPanels(args.n);
  Plan best;
  double best_cycles = HUGE_VAL;
  for (int64_t row_parts = 1; row_parts <= std::min<int64_t>(num_threads, args.m); ++row_parts) {
    const int64_t threads_per_group = num_threads / row_parts;
    const int64_t rows_per_part = DivideUp(args.m, row_parts);
    const double rows = static_cast<double>(rows_per_part);
    for (const int64_t threads : {int64_t{1}, std::min(threads_per_group, panels)}) {
      const double weights = static_cast<double>(DivideUp(panels, threads) * kPanelWidth * args.k);
      const double multiply = std::max(rows * weights / macs_per_cycle, weights * kCyclesPerWeightByte);
      const double cycles = multiply + rows * static_cast<double>(args.k) * kCyclesPerActivation +
                            (row_parts * threads > 1 ? kForkCycles : 0.0);
      if (cycles >= best_cycles) continue;
      best_cycles = cycles;
      const double all_panels = multiply * static_cast<double>(threads);
      const auto whole_parts = static_cast<int64_t>(all_panels / kLeastPartCycles);
      const int64_t parts = std::min({panels, threads * kPartsPerThread, std::max(threads, whole_parts)});
      best = {row_parts, row_parts * threads > 1 ? parts : 1, rows_per_part};
    }
  }
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
  const int64_t workers = std::min<int64_t>(num_threads, plan.row_parts * plan.panel_parts);
  return workers * RoundUp(ScratchBytes(args, kernels, plan.rows_per_part), 64);
}

void MatMul(const MatMulArgs& args, void* workspace, ThreadPool* pool) {
  if (args.m == 0 || args.n == 0) return;
  const Kernels& kernels = KernelsFor(ActiveTier());
  const Plan plan = MakePlan(args, kernels, pool->NumThreads());
  const bool integer = args.activations != Activations::kFloat;
  const auto multiply = integer ? kernels.multiply_integer : kernels.multiply_float;
  const int64_t scratch_bytes = RoundUp(ScratchBytes(args, kernels, plan.rows_per_part), 64);
  const auto scratch_of = [&](int64_t worker) { return static_cast<char*>(workspace) + worker * scratch_bytes; };
  const int64_t workers = std::min<int64_t>(pool->NumThreads(), plan.row_parts * plan.panel_parts);
  for (int64_t worker = 0; integer && worker < workers; ++worker) new (scratch_of(worker)) ScratchHeader;
  const int64_t panels = NumPanels(args.n);
  const auto task = [&](int64_t row_part, int64_t panel_part, int worker) {
    const Block block = {args.m * row_part / plan.row_parts, args.m * (row_part + 1) / plan.row_parts,
                         panels * panel_part / plan.panel_parts, panels * (panel_part + 1) / plan.panel_parts};
    multiply(args, block, scratch_of(worker));
  };
  if (workers == 1) {
    task(0, 0, 0);
  } else {
    pool->Run(plan.row_parts, plan.panel_parts, task);
  }
}

}  // namespace tfcompress::int8
