// Picks the tier's attention and shares heads and blocks of queries among threads.
#include "base/attention.h"

#include <algorithm>
#include <cstring>

namespace tfcompress {
namespace {

// Multiply-adds that are too little to be shared: some 20 us of one core.
constexpr double kLeastSharedMacs = 512 << 10;

// Blocks that the queries of a head are cut into, of nearly equal size.
int64_t Blocks(const AttentionArgs& args) { return (args.queries + kAttentionQueries - 1) / kAttentionQueries; }

int64_t Workers(const AttentionArgs& args, const ThreadPool& pool) {
  const double scores = static_cast<double>(args.batch) * static_cast<double>(args.heads) * static_cast<double>(args.queries) * static_cast<double>(args.keys);
  if (scores * static_cast<double>(args.key_dim + args.value_dim) < kLeastSharedMacs) return 1;
  return std::min<int64_t>(pool.NumThreads(), args.batch * args.heads * Blocks(args));
}

}  // namespace

const AttentionKernel& AttentionKernelFor(Tier tier) {
#ifdef TFCOMPRESS_HAVE_X86_TIERS
  if (tier >= Tier::kAvx512) return kAttentionAvx512;
  if (tier >= Tier::kAvx2) return kAttentionAvx2;
#endif
  (void)tier;
  return kAttentionPortable;
}

int64_t AttentionScratchBytes(const AttentionArgs& args, const ThreadPool& pool) {
  return Workers(args, pool) * AttentionKernelFor(ActiveTier()).scratch_bytes(args);
}

void Attention(const AttentionArgs& args, ThreadPool* pool, void* scratch) {
  if (args.batch == 0 || args.heads == 0 || args.queries == 0 || args.value_dim == 0) return;
  if (args.keys == 0) {  // a sum of nothing
    std::memset(args.y, 0, static_cast<size_t>(args.batch * args.queries * args.heads * args.value_dim) * (args.type == ElementType::kFloat32 ? 4 : 2));
    return;
  }
  const AttentionKernel& kernel = AttentionKernelFor(ActiveTier());
  const int64_t bytes = kernel.scratch_bytes(args), blocks = Blocks(args), sharing = args.heads / args.kv_heads;
  const auto memory = [&](int64_t worker) { return static_cast<char*>(scratch) + worker * bytes; };
  const int64_t workers = Workers(args, *pool);
  for (int64_t worker = 0; worker < workers; ++worker) *reinterpret_cast<int64_t*>(memory(worker)) = -1;
  // A group is the heads that share keys and values, which a worker prepares once for all its tasks there.
  SingleThread alone;
  ThreadPool* const who = workers == 1 ? &alone : pool;
  who->Run(args.batch * args.kv_heads, sharing * blocks, [&](int64_t group, int64_t task, int worker) {
    const int64_t head = group % args.kv_heads * sharing + task / blocks, block = task % blocks;
    kernel.run(args, group / args.kv_heads, head, args.queries * block / blocks, args.queries * (block + 1) / blocks, memory(worker));
  });
}

}  // namespace tfcompress
