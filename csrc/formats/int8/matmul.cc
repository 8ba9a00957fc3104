// Picks the kernels for the tier in force, cuts the output into balanced blocks and runs them on the caller's threads.
#include <algorithm>
#include <cmath>
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
#endif
  (void)tier;
  return PortableKernels();
}

namespace {

// The output is cut into row_parts groups of panel_parts tasks. A group's rows are one block of ScratchBytes(), so that a worker prepares
// their activations once, however many of the group's tasks it takes.
struct Plan {
  int64_t row_parts = 1;
  int64_t panel_parts = 1;
  int64_t rows_per_part = 0;  // the largest
  int64_t threads = 1;        // that have work
};

// Cycles, all roughly: what work on a second core costs beside the work, and what a core does per byte of packed weights that it
// streams and per activation that it prepares.
constexpr double kForkCycles = 5000.0;
constexpr double kCyclesPerWeightByte = 1.0 / 16;
constexpr double kCyclesPerActivation = 0.8;
// Tasks are smaller than threads need, since threads are rarely equally fast; but not crumbs.
constexpr int64_t kTasksPerThread = 8;
constexpr double kLeastTaskCycles = 4000.0;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Few rows: splitting rows makes every thread read all weights, splitting panels makes every thread prepare all activations. The
// plan is the grid whose slowest thread is estimated to end first. Many rows: blocks of as many as fit.
Plan MakePlan(const MatMulArgs& args, const Kernels& kernels, int num_threads) {
  const bool integer = args.activations != Activations::kFloat;
  const double macs_per_cycle = integer ? kernels.macs_per_cycle : kernels.float_macs_per_cycle;
  const int64_t panels = NumPanels(args.n);
  const int64_t least_row_parts = DivideUp(args.m, MostRowsHeld(args));
  Plan best;
  double best_cycles = HUGE_VAL;
  for (int64_t row_parts = least_row_parts;;) {
    const int64_t rows_per_part = DivideUp(args.m, row_parts);
    const double rows = static_cast<double>(rows_per_part);
    const double panel_bytes = static_cast<double>(kPanelWidth * args.k);
    const double panel_cycles = std::max(rows * panel_bytes / macs_per_cycle, panel_bytes * kCyclesPerWeightByte);
    const double prepare_cycles = rows * static_cast<double>(args.k) * kCyclesPerActivation;
    const double group_cycles = panel_cycles * static_cast<double>(panels);
    for (const int64_t threads : {int64_t{1}, std::min<int64_t>(num_threads, row_parts * panels)}) {
      const int64_t groups_in_turn = DivideUp(row_parts, threads);
      const int64_t threads_per_group = std::max<int64_t>(1, threads / row_parts);
      const double cycles = static_cast<double>(groups_in_turn) *
                                (panel_cycles * static_cast<double>(DivideUp(panels, threads_per_group)) + prepare_cycles) +
                            (threads > 1 ? kForkCycles : 0.0);
      if (cycles >= best_cycles) continue;
      best_cycles = cycles;
      const auto whole_tasks = std::max<int64_t>(threads_per_group, static_cast<int64_t>(group_cycles / kLeastTaskCycles));
      const int64_t parts = std::min({panels, DivideUp(threads * kTasksPerThread, row_parts), whole_tasks});
      best = {row_parts, threads > 1 ? parts : 1, rows_per_part, threads};
    }
    row_parts *= 2;  // few enough plans for many threads too
    if (row_parts > std::min<int64_t>(num_threads, args.m)) break;
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
  if (args.activations == Activations::kStatic) return CheckXScale(args.x_scale);
  return "";
}

int64_t WorkspaceBytes(const MatMulArgs& args, int num_threads) {
  if (args.m == 0 || args.n == 0) return 0;
  const Kernels& kernels = KernelsFor(ActiveTier());
  const Plan plan = MakePlan(args, kernels, num_threads);
  return plan.threads * RoundUp(ScratchBytes(args, kernels, plan.rows_per_part), 64);
}

void MatMul(const MatMulArgs& args, void* workspace, ThreadPool* pool) {
  if (args.m == 0 || args.n == 0) return;
  const Kernels& kernels = KernelsFor(ActiveTier());
  const Plan plan = MakePlan(args, kernels, pool->NumThreads());
  const bool integer = args.activations != Activations::kFloat;
  const auto multiply = integer ? kernels.multiply_integer : kernels.multiply_float;
  const int64_t scratch_bytes = RoundUp(ScratchBytes(args, kernels, plan.rows_per_part), 64);
  const auto scratch_of = [&](int64_t worker) { return static_cast<char*>(workspace) + worker * scratch_bytes; };
  for (int64_t worker = 0; integer && worker < plan.threads; ++worker) new (scratch_of(worker)) ScratchHeader;
  const int64_t panels = NumPanels(args.n);
  const auto task = [&](int64_t row_part, int64_t panel_part, int worker) {
    const Block block = {args.m * row_part / plan.row_parts, args.m * (row_part + 1) / plan.row_parts,
                         panels * panel_part / plan.panel_parts, panels * (panel_part + 1) / plan.panel_parts};
    multiply(args, block, scratch_of(worker));
  };
  SingleThread alone;
  (plan.threads == 1 ? static_cast<ThreadPool*>(&alone) : pool)->Run(plan.row_parts, plan.panel_parts, task);
}

}  // namespace tfcompress::int8
