// y [m, n] for m <= 8: bound by the weights, which are read once. A block owns 16, 32 or 64 outputs and all of K; a thread takes 16 bytes, one
// group's words of four outputs, several times under way, and the next batch is asked for before this one is multiplied.
#include "formats/int8/cuda_kernels.cuh"

namespace tfcompress::int8 {
namespace {

// Words4 of a batch: 256 threads x 4 x 16 bytes are 16 KiB of weights under way in a block; eight rows' sums leave registers for two.
TFCOMPRESS_INLINE constexpr int Unroll(int rows) { return rows == 8 ? 2 : 4; }
constexpr int kWarps = kGemvThreads / 32;

// Shared memory: x of a chunk | sums of each warp [kWarps][kRows][columns] | per warp and row, a magnitude or a sum | RowScale [kRows]
template <int kRows>
struct GemvShared {
  TFCOMPRESS_DEVICE GemvShared(int chunk_groups, int x_bytes, int columns) {
    x = SharedMemory();
    sums = x + RoundUp(int64_t{chunk_groups} * kRows * kGroup * x_bytes, 16);
    of_warps = reinterpret_cast<uint32_t*>(sums + kWarps * kRows * columns * 4);
    row_scales = reinterpret_cast<RowScale*>(of_warps + kWarps * kRows);
  }
  char* x;
  char* sums;
  uint32_t* of_warps;
  RowScale* row_scales;
};

// Which outputs and groups a thread takes.
struct GemvThread {
  TFCOMPRESS_DEVICE GemvThread(const CudaProblem& p, int columns)
      : across(columns / 4),
        group(ThreadIndex() / across),
        groups(kGemvThreads / across),
        column(BlockIndex() * columns + 4 * (ThreadIndex() % across)),
        weights(WeightColumnsAt(p, column)),
        step_bytes(static_cast<int>(weights.step_bytes)) {}
  int across;  // threads that share a group
  int group, groups;
  int64_t column;
  WeightColumns weights;
  int step_bytes;  // at most 256; a column of weights is at most 4 MiB: offsets are ints
};

template <int kUnroll>
TFCOMPRESS_DEVICE void LoadWeights(const GemvThread& t, int group, int end, Words4 (&raw)[kUnroll]) {
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int g = group + u * t.groups;
    raw[u] = {{0, 0, 0, 0}};
    if (t.weights.exists && g < end) raw[u] = LoadStreaming(t.weights.first + g * t.step_bytes);
  }
}

// Calls multiply(group, words) for this thread's groups out of [first, end), whose first batch is `raw` already.
template <int kUnroll, typename Multiply>
TFCOMPRESS_DEVICE void ForEachGroup(const GemvThread& t, int first, int end, Words4 (&raw)[kUnroll], const Multiply& multiply) {
  for (int group = first + t.group; group < end; group += kUnroll * t.groups) {
    Words4 next[kUnroll];
    LoadWeights(t, group + kUnroll * t.groups, end, next);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int g = group + u * t.groups;
      if (g < end) multiply(g - first, raw[u]);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) raw[u] = next[u];
  }
}

// Adds up what the threads of a block have summed for the same outputs: in the warp by shuffles, then through shared memory.
template <int kRows, typename T>
TFCOMPRESS_DEVICE void DepositSums(const GemvThread& t, int columns, T (&sums)[kRows][4], char* shared) {
  for (int lanes = t.across; lanes < 32; lanes *= 2) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[r][c] += ShuffleXor(sums[r][c], lanes);
    }
  }
  const int lane = ThreadIndex() % 32, warp = ThreadIndex() / 32;
  if (lane >= t.across) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const auto word = [&](int c) { return BitCast<uint32_t>(sums[r][c]); };
    StoreShared<4>(shared + ((warp * kRows + r) * columns + 4 * lane) * 4, {{word(0), word(1), word(2), word(3)}});
  }
}

template <int kRows, typename T>
TFCOMPRESS_DEVICE void CollectSums(int row, int column, int columns, const char* shared, T (&sums)[4]) {
#pragma unroll
  for (int c = 0; c < 4; ++c) sums[c] = T(0);
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const Words4 part = LoadWords<4>(shared + ((w * kRows + row) * columns + column) * 4);
#pragma unroll
    for (int c = 0; c < 4; ++c) sums[c] += BitCast<T>(part.v[c]);
  }
}

// Quantised activations lie in shared memory as words of a group, up to four rows side by side: one load of up to 128 bits for them.
template <int kRows>
struct RowWords {
  static constexpr int kPacked = kRows < 4 ? kRows : 4;
  using Packed = Words<kPacked>;
  // Of rows row ... row + kPacked - 1.
  TFCOMPRESS_DEVICE static uint32_t* At(char* x, int chunk_groups, int group, int row) {
    return reinterpret_cast<uint32_t*>(x) + (row / kPacked * chunk_groups + group) * kPacked;
  }
};

// Quantises all rows into shared memory.
template <int kRows>
TFCOMPRESS_DEVICE void QuantizeIntoShared(const CudaProblem& p, int chunk_groups, const GemvShared<kRows>& shared) {
  const int thread = ThreadIndex(), warp = thread / 32;
  uint32_t most[kRows] = {};
  for (int g = thread; g < p.groups; g += kGemvThreads) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float v[4];
      if (r < p.m) {
        LoadFour(p.x, r, 4 * g, v);
        most[r] = MostMagnitude(v, most[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    most[r] = WarpMost(most[r]);
    if (thread % 32 == 0) shared.of_warps[warp * kRows + r] = most[r];
  }
  SyncThreads();
  Scaling scaling[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    for (int w = 0; w < kWarps; ++w) most[r] = shared.of_warps[w * kRows + r] > most[r] ? shared.of_warps[w * kRows + r] : most[r];
    scaling[r] = ScalingOf(most[r], p.x_scale);
  }
  uint32_t sum[kRows] = {};
  for (int g = thread; g < p.groups; g += kGemvThreads) {
#pragma unroll
    for (int r0 = 0; r0 < kRows; r0 += RowWords<kRows>::kPacked) {
      typename RowWords<kRows>::Packed packed;
#pragma unroll
      for (int r = r0; r < r0 + RowWords<kRows>::kPacked; ++r) {
        float v[4] = {};
        if (r < p.m) LoadFour(p.x, r, 4 * g, v);
        packed.v[r - r0] = QuantizeFour(v, scaling[r], &sum[r]);
      }
      StoreShared(RowWords<kRows>::At(shared.x, chunk_groups, g, r0), packed);
    }
  }
  SyncThreads();  // everybody has read the magnitudes
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    sum[r] = WarpSum(sum[r]);
    if (thread % 32 == 0) shared.of_warps[warp * kRows + r] = sum[r];
    if (thread == 0) shared.row_scales[r].scale = scaling[r].scale;
  }
  SyncThreads();
  if (thread < kRows) {
    uint32_t total = 0;
    for (int w = 0; w < kWarps; ++w) total += shared.of_warps[w * kRows + thread];
    const float scale = shared.row_scales[thread].scale;
    shared.row_scales[thread] = MakeRowScale({scale, 0.0f, false}, total);
    if (BlockIndex() == 0 && p.row_scale_copy != nullptr && thread < p.m) p.row_scale_copy[thread] = scale;
  }
}

// Copies a chunk of rows that were quantised before.
template <int kRows>
TFCOMPRESS_DEVICE void CopyIntoShared(const CudaProblem& p, int first, int groups, int chunk_groups, const GemvShared<kRows>& shared) {
  for (int g = ThreadIndex(); g < groups; g += kGemvThreads) {
#pragma unroll 1
    for (int r0 = 0; r0 < kRows; r0 += RowWords<kRows>::kPacked) {
      typename RowWords<kRows>::Packed packed;
#pragma unroll
      for (int r = r0; r < r0 + RowWords<kRows>::kPacked; ++r) {
        const uint8_t* from = p.x_q + r * p.x_q_stride + (first + g) * kGroup;
        packed.v[r - r0] = r < p.m ? LoadReadOnly(reinterpret_cast<const uint32_t*>(from)) : 0;
      }
      StoreShared(RowWords<kRows>::At(shared.x, chunk_groups, g, r0), packed);
    }
  }
  if (first == 0 && ThreadIndex() < p.m) shared.row_scales[ThreadIndex()] = p.row_scales[ThreadIndex()];
}

template <int kRows, bool kFused>
TFCOMPRESS_GLOBAL(kGemvThreads, kGemvBlocksPerMultiprocessor)
IntegerGemvKernel(CudaProblem p, int columns, int chunk_groups) {
  using Rows = RowWords<kRows>;
  const GemvShared<kRows> shared(chunk_groups, 1, columns);
  const GemvThread t(p, columns);
  int32_t sums[kRows][4] = {};
  const int groups = static_cast<int>(p.groups);
  for (int first = 0; first < groups; first += chunk_groups) {
    const int end = first + chunk_groups < groups ? first + chunk_groups : groups;
    Words4 raw[Unroll(kRows)];
    LoadWeights(t, first + t.group, end, raw);  // under way while x is prepared
    if (kFused) {
      QuantizeIntoShared<kRows>(p, chunk_groups, shared);
    } else {
      if (first > 0) SyncThreads();  // the chunk before has been multiplied
      CopyIntoShared<kRows>(p, first, end - first, chunk_groups, shared);
    }
    SyncThreads();
    ForEachGroup(t, first, end, raw, [&](int g, const Words4& words) {
#pragma unroll
      for (int r0 = 0; r0 < kRows; r0 += Rows::kPacked) {
        const auto x = LoadWords<Rows::kPacked>(Rows::At(shared.x, chunk_groups, g, r0));
#pragma unroll
        for (int r = 0; r < Rows::kPacked; ++r) {
#pragma unroll
          for (int c = 0; c < 4; ++c) sums[r0 + r][c] = Dot4(x.v[r], words.v[c], sums[r0 + r][c]);
        }
      }
    });
  }
  if (p.groups == 0) {  // no k: x_q is all zeros, or the scale given is no scale
    if (ThreadIndex() < kRows) {
      const float scale = kFused ? ScalingOf(0, p.x_scale).scale : p.row_scales[0].scale;
      shared.row_scales[ThreadIndex()] = {scale, 0};
      if (BlockIndex() == 0 && p.row_scale_copy != nullptr && ThreadIndex() < p.m) p.row_scale_copy[ThreadIndex()] = scale;
    }
  }
  DepositSums<kRows>(t, columns, sums, shared.sums);
  SyncThreads();
  const int row = ThreadIndex() / t.across, column = 4 * (ThreadIndex() % t.across);
  if (row >= p.m || BlockIndex() * columns + column >= p.n) return;
  int32_t total[4];
  CollectSums<kRows>(row, column, columns, shared.sums, total);
  FinishIntegerFour(p, row, BlockIndex() * columns + column, total, shared.row_scales[row]);
}

template <int kRows>
TFCOMPRESS_GLOBAL(kGemvThreads, kGemvBlocksPerMultiprocessor)
FloatGemvKernel(CudaProblem p, int columns, int chunk_groups) {
  const GemvShared<kRows> shared(chunk_groups, 4, columns);
  const GemvThread t(p, columns);
  Words4* const x = reinterpret_cast<Words4*>(shared.x);  // [kRows][chunk_groups]: consecutive groups, no bank conflicts
  const int thread = ThreadIndex(), warp = thread / 32;
  float sums[kRows][4] = {};
  float row_sums[kRows] = {};
  const int groups = static_cast<int>(p.groups);
  for (int first = 0; first < groups; first += chunk_groups) {
    const int end = first + chunk_groups < groups ? first + chunk_groups : groups;
    Words4 raw[Unroll(kRows)];
    LoadWeights(t, first + t.group, end, raw);
    if (first > 0) SyncThreads();  // the chunk before has been multiplied
    for (int g = thread; g < end - first; g += kGemvThreads) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float v[4] = {};
        if (r < p.m) LoadFour(p.x, r, 4 * (first + g), v);
        row_sums[r] += (v[0] + v[1]) + (v[2] + v[3]);
        const auto word = [&](int j) { return BitCast<uint32_t>(v[j]); };
        StoreShared<4>(x + r * chunk_groups + g, {{word(0), word(1), word(2), word(3)}});
      }
    }
    SyncThreads();
    ForEachGroup(t, first, end, raw, [&](int g, const Words4& words) {
      float weights[4][4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) weights[c][j] = DecodeWeight(words.v[c], j);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Words4 v = LoadWords<4>(x + r * chunk_groups + g);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[r][c] = FusedMultiplyAdd(BitCast<float>(v.v[j]), weights[c][j], sums[r][c]);
        }
      }
    });
  }
  if (p.epilogue.mean != nullptr) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int lanes = 16; lanes > 0; lanes /= 2) row_sums[r] += ShuffleXor(row_sums[r], lanes);
      if (thread % 32 == 0) shared.of_warps[warp * kRows + r] = BitCast<uint32_t>(row_sums[r]);
    }
  }
  DepositSums<kRows>(t, columns, sums, shared.sums);
  SyncThreads();
  const int row = thread / t.across, column = 4 * (thread % t.across);
  if (row >= p.m || BlockIndex() * columns + column >= p.n) return;
  float total[4], row_sum = 0.0f;
  CollectSums<kRows>(row, column, columns, shared.sums, total);
  for (int w = 0; p.epilogue.mean != nullptr && w < kWarps; ++w) row_sum += BitCast<float>(shared.of_warps[w * kRows + row]);
  FinishFour(p.epilogue, row, BlockIndex() * columns + column, total, 1.0f, row_sum);
}

}  // namespace

std::string LaunchGemv(const CudaProblem& p, const GemvPlan& plan, int64_t shared_bytes, bool integer, void* stream) {
  using Kernel = void (*)(CudaProblem, int, int);
  struct Variant {
    int rows;
    Kernel fused, quantised_before, on_floats;
  };
  constexpr Variant kVariants[] = {{1, IntegerGemvKernel<1, true>, IntegerGemvKernel<1, false>, FloatGemvKernel<1>},
                                   {2, IntegerGemvKernel<2, true>, IntegerGemvKernel<2, false>, FloatGemvKernel<2>},
                                   {4, IntegerGemvKernel<4, true>, IntegerGemvKernel<4, false>, FloatGemvKernel<4>},
                                   {8, IntegerGemvKernel<8, true>, IntegerGemvKernel<8, false>, FloatGemvKernel<8>}};
  const int rows = GemvRows(p.m);
  for (const Variant& v : kVariants) {
    if (v.rows != rows) continue;
    const Kernel kernel = !integer ? v.on_floats : plan.fused ? v.fused : v.quantised_before;
    return LaunchKernel("int8 GEMV", kernel, plan.blocks, kGemvThreads, shared_bytes, stream, p, plan.columns,
                        static_cast<int>(plan.chunk_groups));
  }
  return "int8 GEMV: there must be 1 to 8 rows; received " + std::to_string(p.m);
}

}  // namespace tfcompress::int8
