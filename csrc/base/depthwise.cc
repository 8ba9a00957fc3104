// Picks the tier's depthwise convolution and shares its output rows among threads.
#include "base/depthwise.h"

#include <algorithm>

namespace tfcompress {
namespace {

// Multiply-adds of a task, and what is too little to be shared: some 20 us of one core (25 a nanosecond on Zen 5). On a machine that does other
// things too, 14 x 14 x 256 (18 us alone) took three times as long on two threads, one waiting for the other.
constexpr int64_t kMacsPerTask = 128 << 10;
constexpr int64_t kLeastSharedMacs = 512 << 10;

}  // namespace

DepthwiseRows& DepthwiseRowsFor(Tier tier) {
#ifdef TFCOMPRESS_HAVE_X86_TIERS
  if (tier >= Tier::kAvx512) return DepthwiseRowsAvx512;
  if (tier >= Tier::kAvx2) return DepthwiseRowsAvx2;
#endif
  (void)tier;
  return DepthwiseRowsPortable;
}

void DepthwiseConvolution(const DepthwiseArgs& args, ThreadPool* pool) {
  const Windows& v = args.windows;
  const int64_t rows = v.batch * v.h.out;
  if (rows == 0 || v.w.out == 0 || v.channels == 0) return;
  DepthwiseRows& run = DepthwiseRowsFor(ActiveTier());
  const double row_macs = static_cast<double>(v.w.out) * static_cast<double>(v.row());
  if (pool->NumThreads() == 1 || row_macs * static_cast<double>(rows) < kLeastSharedMacs) return run(args, 0, rows);
  const auto rows_per_task = std::max<int64_t>(1, static_cast<int64_t>(kMacsPerTask / std::max(row_macs, 1.0)));
  pool->Run(1, (rows + rows_per_task - 1) / rows_per_task, [&](int64_t, int64_t task, int) {
    run(args, task * rows_per_task, std::min(rows, (task + 1) * rows_per_task));
  });
}

}  // namespace tfcompress
