// How a product of dense panels is cut into tasks: a grid of row blocks and panel blocks.
#ifndef TFCOMPRESS_BASE_GRID_H_
#define TFCOMPRESS_BASE_GRID_H_

#include <cstdint>

#include "base/parallel.h"

namespace tfcompress {

// One rectangle of the output: rows [row_begin, row_end), panels [panel_begin, panel_end).
struct Block {
  int64_t row_begin, row_end;
  int64_t panel_begin, panel_end;
};

// What work costs, in cycles of one core, all roughly.
struct GridCosts {
  int64_t m = 0, panels = 0;
  int64_t most_rows = 1;      // that a worker holds prepared at a time
  double row_cycles = 0;      // multiplying one row by one panel
  double stream_cycles = 0;   // reading one panel: what few rows cost at least
  double prepare_cycles = 0;  // preparing one row
};

// The output is cut into row_parts groups of panel_parts tasks. A group's rows are prepared once by a worker, however many of the group's
// tasks it takes.
struct Grid {
  int64_t row_parts = 1;
  int64_t panel_parts = 1;
  int64_t rows_per_part = 0;  // the largest
  int64_t threads = 1;        // that have work
};

// Few rows: splitting rows makes every thread read all weights, splitting panels makes every thread prepare all activations. The
// grid is the one whose slowest thread is estimated to end first. Many rows: blocks of as many as fit.
Grid MakeGrid(const GridCosts& costs, int num_threads);

// Calls multiply(block, worker) for every block of the grid, on grid.threads threads of the pool.
template <typename F>
void RunGrid(const GridCosts& costs, const Grid& grid, ThreadPool* pool, const F& multiply) {
  // By value, so that a helper finds all that it needs in one place.
  const auto task = [costs, grid, multiply](int64_t row_part, int64_t panel_part, int worker) {
    const Block block = {costs.m * row_part / grid.row_parts, costs.m * (row_part + 1) / grid.row_parts,
                         costs.panels * panel_part / grid.panel_parts, costs.panels * (panel_part + 1) / grid.panel_parts};
    multiply(block, worker);
  };
  SingleThread alone;
  (grid.threads == 1 ? static_cast<ThreadPool*>(&alone) : pool)->Run(grid.row_parts, grid.panel_parts, task);
}

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_GRID_H_
