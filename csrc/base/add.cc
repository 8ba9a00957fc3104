// Picks the tier's sum and shares it among threads.
#include "base/add.h"

#include <algorithm>

namespace tfcompress {
namespace {

// Numbers of a task, some 5 us of one core, and what is too little to be shared.
constexpr int64_t kNumbersPerTask = 32 << 10;
constexpr int64_t kLeastSharedNumbers = 64 << 10;

}  // namespace

AddRange& AddRangeFor(Tier tier) {
#ifdef TFCOMPRESS_HAVE_X86_TIERS
  if (tier >= Tier::kAvx512) return AddRangeAvx512;
  if (tier >= Tier::kAvx2) return AddRangeAvx2;
#endif
  (void)tier;
  return AddRangePortable;
}

void Add(const AddArgs& args, ThreadPool* pool) {
  if (args.count == 0) return;
  AddRange& run = AddRangeFor(ActiveTier());
  if (pool->NumThreads() == 1 || args.count < kLeastSharedNumbers) return run(args, 0, args.count);
  pool->Run(1, (args.count + kNumbersPerTask - 1) / kNumbersPerTask,
            [&](int64_t, int64_t task, int) { run(args, task * kNumbersPerTask, std::min(args.count, (task + 1) * kNumbersPerTask)); });
}

}  // namespace tfcompress
