// Picks the kernels for the tier in force, cuts the output into balanced blocks and runs them on the caller's threads.
#include <algorithm>
#include <cmath>
#include <new>

#include "formats/sparse/kernels.h"

namespace tfcompress::sparse {

const Kernels& KernelsFor(Tier tier) {
#ifdef TFCOMPRESS_HAVE_X86_TIERS
  switch (tier) {
    case Tier::kAvx512Bf16:
      return Avx512Bf16Kernels();
    case Tier::kAvx512Vbmi:
      return Avx512VbmiKernels();
    case Tier::kAvx512Vnni:
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

// Which kind multiplies: Columns from this many rows of x on. Microseconds of one Zen 5 core, 1024 x 1024:
//
//     rows of x                           1     2     4     8    16   128
//     float32, AVX-512, 90 % zeros
//         Rows                           10    15    16    33    66          2 look-ups and a multiply-add for 16 weights and a row
//         Columns                        42    42    42    43    44   283    one pass for 16 rows, two registers for 32
//     float32, AVX2, 90 % zeros
//         Rows                           48    65   148   286                gathers
//         Columns                        66    66    68    66    65   503
//     int8, AVX2, 80 % zeros
//         Rows                           14          52   105   210          vpshufb
//         Columns                       105         106   108   111   810
//     int8, AVX-512 VBMI, 90 % zeros
//         Rows                          2.3   3.2   3.3   5.6    11    88    kNever: a look-up and a multiply-add for 64 weights
//         Columns                                                     327
//     bfloat16, AVX-512 BF16, 90 % zeros
//         Rows                          4.1   6.0   7.1    10    21   168    kNever: for 32 weights
//         Columns                        42                      44   275
struct Choice {
  int64_t float32, bfloat16, int8;
};
constexpr Choice kColumnsFrom[] = {
    /* portable */ {4, 4, 4},
#if defined(TFCOMPRESS_HAVE_X86_TIERS)
    /* avx2 */ {3, 3, 9},
    /* avx512 */ {10, 8, 9},
    /* avx512vnni */ {10, 8, 9},
    /* avx512vbmi */ {10, 8, kNever},
    /* avx512bf16 */ {10, kNever, kNever},
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)
    // By the cycles that llvm-mca gives the inner loops of Cortex-A72 and Neoverse N1, 16 rows as columns of 16: for a step of float32 89 and 56, where
    // Rows takes 32 and 12.5 a row; of int8 396 and 216, where Rows takes 27 and 8.5 a row with reach 64, 50 and 18 with reach 128.
    /* neon */ {3, 3, 9},
    /* dotprod */ {5, 4, 16},
#endif
};
static_assert(sizeof(kColumnsFrom) / sizeof(kColumnsFrom[0]) == static_cast<int>(Tier::kCount), "every tier has its row");

// Columns multiplies 16 or 32 rows in one time. One or two rows beyond a multiple of 16 are cheaper by look-ups than as columns of zeros:
// batch 17 takes 1.2 times as long as 16, not 1.5 times.
constexpr int64_t kTailRows = 2;

// The output is cut into row_parts groups of panel_parts tasks.
struct Plan {
  Kind kind = Kind::kRows;
  int64_t tail = 0;  // Columns: rows at the end that make a group of their own, for Rows
  int64_t row_parts = 1, panel_parts = 1;
  int64_t rows_per_part = 0;  // the largest
  int64_t threads = 1;        // that have work
  int64_t scratch_bytes = 0;  // of a thread
};

// Cycles: what work on a second core costs beside the work, and what tasks, which are smaller than threads need since threads are rarely equally
// fast, take at least.
constexpr double kForkCycles = 5000.0;
constexpr double kLeastTaskCycles = 4000.0;
constexpr int64_t kTasksPerThread = 8;
// Rows: weights of at most this many bytes, half of an L2, are read by every thread, each for rows of its own: no thread prepares another's rows. Two threads
// of Zen 5, batch 16 and 32: 0.75 to 0.95 of the time; with weights of 600 kB and more 0.95 to 1.1.
constexpr int64_t kSharedWeightBytes = 512 * 1024;
constexpr int64_t kLeastRowsSplit = 8;  // a thread's: lower tiles hold their windows for fewer rows
constexpr double kCyclesPerStep = 2.0;  // a step itself, beside its rows

Plan MakePlan(const MatMulArgs& args, Tier tier, const Kernels& kernels, int num_threads) {
  const auto v = static_cast<size_t>(args.matrix.values_type);
  Plan plan;
  plan.kind = ChooseKind(tier, args.matrix.values_type, args.m);
  const auto steps = static_cast<double>(args.matrix.steps);
  double cycles;
  const auto rows_scratch = [&](int64_t held) { return RoundUp(RowsScratchBytes(args.matrix, kernels.rows_x_bytes[v], held), 64); };
  const auto rows_cycles = [&](int64_t m, int64_t parts) {
    return steps * (static_cast<double>(m) * kernels.rows_cycles[v] + kCyclesPerStep * static_cast<double>(parts));
  };
  if (plan.kind == Kind::kColumns) {
    if (args.m % kFewColumns <= kTailRows && args.m > kFewColumns) plan.tail = args.m % kFewColumns;
    const int64_t by_columns = args.m - plan.tail;
    const int64_t parts = DivideUp(by_columns, kColumnsHeld);
    plan.row_parts = parts + (plan.tail > 0 ? 1 : 0);
    plan.rows_per_part = std::min(by_columns, kColumnsHeld);
    cycles = steps * static_cast<double>(parts) * kernels.columns_cycles[v] + rows_cycles(plan.tail, 1);
    plan.scratch_bytes = std::max(RoundUp(ColumnsScratchBytes(args.matrix, plan.rows_per_part), 64), rows_scratch(plan.tail));
  } else {
    plan.row_parts = DivideUp(args.m, kRowsHeld);
    const auto weight_bytes = args.matrix.steps * StepEntries(args.matrix.values_type) * (1 + ValueBytes(args.matrix.values_type));
    if (weight_bytes <= kSharedWeightBytes) {
      plan.row_parts = std::max(plan.row_parts, std::min<int64_t>(num_threads, args.m / kLeastRowsSplit));
    }
    plan.rows_per_part = DivideUp(args.m, plan.row_parts);
    cycles = rows_cycles(args.m, plan.row_parts);
    plan.scratch_bytes = rows_scratch(plan.rows_per_part);
  }
  const int64_t panels = NumPanels(args.matrix.n);
  if (cycles < 2 * kForkCycles || num_threads == 1) return plan;
  const auto whole_tasks = static_cast<int64_t>(cycles / kLeastTaskCycles);
  const int64_t tasks = std::min(num_threads * kTasksPerThread, std::max<int64_t>(num_threads, whole_tasks));
  plan.panel_parts = std::min(panels, DivideUp(tasks, plan.row_parts));
  plan.threads = std::min<int64_t>(num_threads, plan.row_parts * plan.panel_parts);
  return plan;
}

// Rows of blocks: whole multiples of what a worker holds prepared, except for Rows, whose parts are nearly equal.
int64_t RowBegin(const MatMulArgs& args, const Plan& plan, int64_t part) {
  if (plan.kind == Kind::kColumns) {
    return part == plan.row_parts ? args.m : std::min(args.m - plan.tail, part * kColumnsHeld);
  }
  return args.m * part / plan.row_parts;
}

// The first panel of a part: parts have nearly equal numbers of steps, wherever the weights are. Panels without steps cost a little too.
int64_t PanelBegin(const Matrix& a, int64_t part, int64_t parts) {
  const int64_t panels = NumPanels(a.n);
  if (part == 0) return 0;
  if (part == parts) return panels;
  const int64_t target = (a.steps + panels) * part / parts;
  int64_t low = 0, high = panels;  // the first p with panels[p] + p >= target
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (a.panels[middle] + middle < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace

int64_t ColumnsFrom(Tier tier, Values values) {
  const Choice& choice = kColumnsFrom[static_cast<int>(tier)];
  return values == Values::kFloat32 ? choice.float32 : values == Values::kBFloat16 ? choice.bfloat16 : choice.int8;
}

Kind ChooseKind(Tier tier, Values values, int64_t m) { return m >= ColumnsFrom(tier, values) ? Kind::kColumns : Kind::kRows; }

std::string CheckMatMul(MatMulArgs* checked) {
  const MatMulArgs& args = *checked;
  if (args.m < 0) return "m must be >= 0; received " + std::to_string(args.m);
  const bool is_int8 = args.matrix.values_type == Values::kInt8;
  if (!is_int8 && (args.y_type == ElementType::kInt32 || args.row_scale != nullptr || args.scale != nullptr)) {
    return "integer sums and scales exist only with int8 values";
  }
  if (is_int8 && args.activations == Activations::kStatic) {
    const std::string error = CheckXScale(args.x_scale);
    if (!error.empty()) return error;
  }
  return CheckMatrix(&checked->matrix);
}

int64_t WorkspaceBytes(const MatMulArgs& args, int num_threads) {
  if (args.m == 0 || args.matrix.n == 0) return 0;
  const Tier tier = ActiveTier();
  const Plan plan = MakePlan(args, tier, KernelsFor(tier), num_threads);
  return plan.threads * plan.scratch_bytes;
}

void MatMul(const MatMulArgs& args, void* workspace, ThreadPool* pool) {
  if (args.m == 0 || args.matrix.n == 0) return;
  const Tier tier = ActiveTier();
  const Kernels& kernels = KernelsFor(tier);
  const Plan plan = MakePlan(args, tier, kernels, pool->NumThreads());
  const auto v = static_cast<size_t>(args.matrix.values_type);
  const auto scratch_of = [workspace, bytes = plan.scratch_bytes](int64_t worker) { return static_cast<char*>(workspace) + worker * bytes; };
  for (int64_t worker = 0; worker < plan.threads; ++worker) new (scratch_of(worker)) ScratchHeader;
  // By value, so that a helper finds all that it needs in one place.
  const auto task = [args, plan, scratch_of, &kernels, v](int64_t row_part, int64_t panel_part, int worker) {
    const Block block = {RowBegin(args, plan, row_part), RowBegin(args, plan, row_part + 1),
                         PanelBegin(args.matrix, panel_part, plan.panel_parts), PanelBegin(args.matrix, panel_part + 1, plan.panel_parts)};
    const bool by_columns = plan.kind == Kind::kColumns && block.row_begin < args.m - plan.tail;
    const Multiply multiply = by_columns ? kernels.columns[v] : kernels.rows[v];
    if (block.panel_begin < block.panel_end) multiply(args, block, scratch_of(worker));
  };
  SingleThread alone;
  (plan.threads == 1 ? static_cast<ThreadPool*>(&alone) : pool)->Run(plan.row_parts, plan.panel_parts, task);
}

}  // namespace tfcompress::sparse
