// Picks the tier's attention and shares heads and blocks of queries among threads.
#include "base/attention.h"

#include <algorithm>
#include <cstring>

namespace tfcompress {
namespace {

// Multiply-adds that are too little to be shared: some 20 us of one core.
constexpr double kLeastSharedMacs = 512 << 10;

// How heads and queries are shared.
struct Shares {
  int64_t workers;
  int64_t blocks;  // of nearly equal size, that the queries of a head are cut into
};

Shares SharesOf(const AttentionArgs& args, const ThreadPool& pool) {
  constexpr int64_t kFewQueries = 24;  // below which laying out keys and values again would take longer than what is shared
  Shares shares = {1, (args.queries + kAttentionQueries - 1) / kAttentionQueries};
  const double scores = static_cast<double>(args.batch) * static_cast<double>(args.heads) * static_cast<double>(args.queries) *
                        static_cast<double>(args.keys);
  if (pool.NumThreads() == 1 || scores * static_cast<double>(args.key_dim + args.value_dim) < kLeastSharedMacs) return shares;
  const int64_t heads = args.batch * args.heads, wanted = (2 * pool.NumThreads() + heads - 1) / heads;
  shares.blocks = std::max(shares.blocks, std::min(wanted, args.queries / kFewQueries));
  shares.workers = std::min<int64_t>(pool.NumThreads(), heads * shares.blocks);
  return shares;
}

bool HasOutputs(const AttentionArgs& args) { return args.batch > 0 && args.heads > 0 && args.queries > 0 && args.value_dim > 0; }

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
  if (!HasOutputs(args) || args.keys == 0) return 0;
  return SharesOf(args, pool).workers * AttentionKernelFor(ActiveTier()).scratch_bytes(args);
}

void Attention(const AttentionArgs& args, ThreadPool* pool, void* scratch) {
  if (!HasOutputs(args)) return;
  if (args.keys == 0) {  // a sum of nothing
    std::memset(
        args.y, 0,
        static_cast<size_t>(args.batch * args.queries * args.heads * args.value_dim) * (args.type == ElementType::kFloat32 ? 4 : 2));
    return;
  }
  const AttentionKernel& kernel = AttentionKernelFor(ActiveTier());
  const auto [workers, blocks] = SharesOf(args, *pool);
  const int64_t bytes = kernel.scratch_bytes(args), sharing = args.heads / args.kv_heads;
  const auto memory = [&](int64_t worker) { return static_cast<char*>(scratch) + worker * bytes; };
  for (int64_t worker = 0; worker < workers; ++worker) *reinterpret_cast<int64_t*>(memory(worker)) = -1;
  // A group is the heads that share keys and values, which a worker prepares once for all its tasks there.
  SingleThread alone;
  ThreadPool* const who = workers == 1 ? &alone : pool;
  who->Run(args.batch * args.kv_heads, sharing * blocks, [&, blocks = blocks](int64_t group, int64_t task, int worker) {
    const int64_t head = group % args.kv_heads * sharing + task / blocks, block = task % blocks;
    kernel.run(args, group / args.kv_heads, head, args.queries * block / blocks, args.queries * (block + 1) / blocks, memory(worker));
  });
}

}  // namespace tfcompress
