#include "python/peaks.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace tfcompress {
namespace {

const PeakLoops& LoopsFor(Tier tier) {
#ifdef TFCOMPRESS_HAVE_X86_TIERS
  switch (tier) {
    case Tier::kAvx512Bf16:
    case Tier::kAvx512Vbmi:
      return Avx512VbmiPeakLoops();
    case Tier::kAvx512Vnni:
      return Avx512VnniPeakLoops();
    case Tier::kAvx512:
      return Avx512PeakLoops();
    case Tier::kAvx2:
      return Avx2PeakLoops();
    default:
      break;
  }
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)
  if (tier == Tier::kDotProd) return DotProdPeakLoops();
  if (tier == Tier::kNeon) return NeonPeakLoops();
#endif
  (void)tier;
  return PortablePeakLoops();
}

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The best rate in units of 1e9 a second of several bursts, all threads running loop(thread).
template <typename F>
double BestRate(ThreadPool* pool, int bursts, const F& loop) {
  double best = 0;
  for (int burst = 0; burst < bursts; ++burst) {
    std::vector<double> work(static_cast<size_t>(pool->NumThreads()));
    const double start = Now();
    // A group for each worker; who is quick may take another's, all the same.
    pool->Run(pool->NumThreads(), 1, [&](int64_t thread, int64_t, int) { work[static_cast<size_t>(thread)] = loop(thread); });
    const double seconds = Now() - start;
    double total = 0;
    for (double w : work) total += w;
    best = std::max(best, total / seconds * 1e-9);
  }
  return best;
}

constexpr long kBurstIterations = 1000000;  // some milliseconds
constexpr long kL2Bytes = 192 << 10;
constexpr long kDramBytes = 128 << 20;       // a thread, but
constexpr long kMostDramBytes = 2048L << 20;  // in all

}  // namespace

Peaks MeasurePeaks(Tier tier, ThreadPool* pool) {
  const PeakLoops& loops = LoopsFor(tier);
  const auto threads = static_cast<size_t>(pool->NumThreads());
  Peaks peaks;
  peaks.float32_gflops = BestRate(pool, 20, [&](int64_t) { return loops.float32(kBurstIterations); });
  peaks.int8_gops = BestRate(pool, 20, [&](int64_t) { return loops.int8(kBurstIterations); });
  peaks.binary_gops = BestRate(pool, 20, [&](int64_t) { return loops.binary(kBurstIterations); });
  std::vector<std::vector<char>> bytes(threads);
  const long dram_bytes = std::min(kDramBytes, kMostDramBytes / pool->NumThreads());
  for (auto& b : bytes) b.assign(static_cast<size_t>(dram_bytes), 1);
  const auto read = [&](long count, long iterations) {
    return [&loops, &bytes, count, iterations](int64_t t) {
      return loops.read(bytes[static_cast<size_t>(t)].data(), count, iterations);
    };
  };
  peaks.l2_read_gbs = BestRate(pool, 20, read(kL2Bytes, 500));
  peaks.dram_read_gbs = BestRate(pool, 5, read(dram_bytes, 1));
  return peaks;
}

}  // namespace tfcompress
