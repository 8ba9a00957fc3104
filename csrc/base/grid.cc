#include "base/grid.h"

#include <algorithm>
#include <cmath>

namespace tfcompress {
namespace {

// What work on a second core costs beside the work.
constexpr double kForkCycles = 5000.0;
// Tasks are smaller than threads need, since threads are rarely equally fast; but not crumbs.
constexpr int64_t kTasksPerThread = 8;
constexpr double kLeastTaskCycles = 4000.0;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Grid MakeGrid(const GridCosts& costs, int num_threads) {
  const int64_t least_row_parts = DivideUp(costs.m, costs.most_rows);
  Grid best;
  double best_cycles = HUGE_VAL;
  for (int64_t row_parts = least_row_parts;;) {
    const int64_t rows_per_part = DivideUp(costs.m, row_parts);
    const double rows = static_cast<double>(rows_per_part);
    const double panel_cycles = std::max(rows * costs.row_cycles, costs.stream_cycles);
    const double prepare_cycles = rows * costs.prepare_cycles;
    const double group_cycles = panel_cycles * static_cast<double>(costs.panels);
    for (const int64_t threads : {int64_t{1}, std::min<int64_t>(num_threads, row_parts * costs.panels)}) {
      const int64_t groups_in_turn = DivideUp(row_parts, threads);
      const int64_t threads_per_group = std::max<int64_t>(1, threads / row_parts);
      const double cycles = static_cast<double>(groups_in_turn) *
                                (panel_cycles * static_cast<double>(DivideUp(costs.panels, threads_per_group)) + prepare_cycles) +
                            (threads > 1 ? kForkCycles : 0.0);
      if (cycles >= best_cycles) continue;
      best_cycles = cycles;
      const auto whole_tasks = std::max<int64_t>(threads_per_group, static_cast<int64_t>(group_cycles / kLeastTaskCycles));
      const int64_t parts = std::min({costs.panels, DivideUp(threads * kTasksPerThread, row_parts), whole_tasks});
      best = {row_parts, threads > 1 ? parts : 1, rows_per_part, threads};
    }
    row_parts *= 2;  // few enough grids for many threads too
    if (row_parts > std::min<int64_t>(num_threads, costs.m)) break;
  }
  return best;
}

}  // namespace tfcompress
