// Picks the tier's look-up and shares large ones among threads.
#include "formats/int8/lookup.h"

#include <algorithm>
#include <atomic>

namespace tfcompress::int8 {
namespace {

// Outputs of a task, in numbers, and what is too little to be shared: some 10 us of one core, several times what it takes to wake another.
constexpr int64_t kNumbersPerTask = 32 << 10;
constexpr int64_t kLeastSharedNumbers = 128 << 10;

}  // namespace

LookUpRows& LookUpRowsFor(Tier tier) {
#ifdef TFCOMPRESS_HAVE_X86_TIERS
  if (tier >= Tier::kAvx512) return LookUpRowsAvx512;
  if (tier >= Tier::kAvx2) return LookUpRowsAvx2;
#endif
  (void)tier;
  return LookUpRowsPortable;
}

int64_t LookUp(const LookupArgs& args, ThreadPool* pool) {
  LookUpRows& look_up = LookUpRowsFor(ActiveTier());
  const int64_t rows_per_task = std::max<int64_t>(1, kNumbersPerTask / std::max<int64_t>(1, args.k));
  if (pool->NumThreads() == 1 || args.count <= rows_per_task || args.count * args.k < kLeastSharedNumbers) return look_up(args, 0, args.count);
  std::atomic<int64_t> first{args.count};
  pool->Run(1, (args.count + rows_per_task - 1) / rows_per_task, [&](int64_t, int64_t task, int) {
    const int64_t begin = task * rows_per_task, end = std::min(args.count, begin + rows_per_task);
    const int64_t reached = look_up(args, begin, end);
    if (reached == end) return;
    for (int64_t known = first; reached < known && !first.compare_exchange_weak(known, reached);) {
    }
  });
  return first;
}

}  // namespace tfcompress::int8
