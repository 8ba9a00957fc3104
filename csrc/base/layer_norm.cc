// Picks the tier's layer normalisation and shares its rows among threads.
#include "base/layer_norm.h"

#include <algorithm>

namespace tfcompress {
namespace {

// Numbers of a task, some 5 us of one core, and what is too little to be shared.
constexpr int64_t kNumbersPerTask = 16 << 10;
constexpr int64_t kLeastSharedNumbers = 48 << 10;

}  // namespace

LayerNormRows& LayerNormRowsFor(Tier tier) {
#ifdef TFCOMPRESS_HAVE_X86_TIERS
  if (tier >= Tier::kAvx512) return LayerNormRowsAvx512;
  if (tier >= Tier::kAvx2) return LayerNormRowsAvx2;
#endif
  (void)tier;
  return LayerNormRowsPortable;
}

void LayerNorm(const LayerNormArgs& args, ThreadPool* pool) {
  if (args.rows == 0 || args.features == 0) return;
  LayerNormRows& run = LayerNormRowsFor(ActiveTier());
  if (pool->NumThreads() == 1 || args.rows < kLeastSharedNumbers / args.features) return run(args, 0, args.rows);
  const int64_t rows_per_task = std::max<int64_t>(1, kNumbersPerTask / args.features);
  pool->Run(1, (args.rows + rows_per_task - 1) / rows_per_task,
            [&](int64_t, int64_t task, int) { run(args, task * rows_per_task, std::min(args.rows, (task + 1) * rows_per_task)); });
}

}  // namespace tfcompress
