// y [m, n] for m <= 8: bound by the weights, which are read once. base/cuda_panels.cuh has what is the same for other formats.
#include "formats/int8/cuda_kernels.cuh"

namespace tfcompress::int8 {
namespace {

static_assert(kGemvThreads == kPanelGemvThreads, "the planner and the kernels agree");

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

// Copies a chunk of rows that were quantised before. Beyond the last row it is copied again: nobody asks for those sums.
template <int kRows>
TFCOMPRESS_DEVICE void CopyIntoShared(const CudaProblem& p, int first, int groups, int chunk_groups, const GemvShared<kRows>& shared) {
  constexpr int kPacked = RowWords<kRows>::kPacked;
#pragma unroll 1
  for (int r0 = 0; r0 < kRows; r0 += kPacked) {
    const uint32_t* from[kPacked];
#pragma unroll
    for (int r = 0; r < kPacked; ++r) {
      const int64_t row = r0 + r < p.m ? r0 + r : p.m - 1;
      from[r] = reinterpret_cast<const uint32_t*>(p.x_q + row * p.x_q_stride) + first;
    }
#pragma unroll 1  // more under way would take the registers of the weights that are
    for (int g = NonNegativeThreadIndex(); g < groups; g += kGemvThreads) {
      typename RowWords<kRows>::Packed packed;
#pragma unroll
      for (int r = 0; r < kPacked; ++r) packed.v[r] = LoadReadOnly(from[r] + g);
      StoreShared(RowWords<kRows>::At(shared.x, chunk_groups, g, r0), packed);
    }
  }
  if (first == 0 && ThreadIndex() < p.m) shared.row_scales[ThreadIndex()] = p.row_scales[ThreadIndex()];
}

template <int kRows, bool kFused>
TFCOMPRESS_GLOBAL(kGemvThreads, kGemvBlocksPerMultiprocessor)
IntegerGemvKernel(CudaProblem p, int columns, int chunk_groups) {
  using Rows = RowWords<kRows>;
  const GemvShared<kRows> shared(chunk_groups * kRows * static_cast<int>(kGroup), columns);
  const GemvThread t(p, columns);
  int32_t sums[kRows][4] = {};
  const int groups = static_cast<int>(p.words);
  const int chunk = kFused ? groups : chunk_groups;  // rows that are quantised here fit as a whole
  for (int first = 0; first < groups; first += chunk) {
    const int end = first + chunk < groups ? first + chunk : groups;
    Words4 raw[GemvUnroll(kRows)];
    LoadWeights<1>(t, first + t.word, end, raw);  // under way while x is prepared
    if (kFused) {
      QuantizeIntoShared<kRows, Rows::kPacked, 1>(
          p, p.x_scale, groups, shared, [](const CudaRow<int>& row, int g, float(&v)[1][4]) { LoadFour(row, 4 * g, v[0]); },
          [&](int g, int r, const typename Rows::Packed& packed) { StoreShared(Rows::At(shared.x, chunk_groups, g, r), packed); });
    } else {
      if (first > 0) SyncThreads();  // the chunk before has been multiplied
      CopyIntoShared<kRows>(p, first, end - first, chunk_groups, shared);
      SyncThreads();
    }
    ForEachWord<1>(t, first, end, raw, [&](int g, const Words4& words) {
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
  if (p.words == 0) {  // no k: x_q is all zeros, or the scale given is no scale
    if (ThreadIndex() < kRows) {
      const float scale = kFused ? ScalingOf(0, p.x_scale).scale : p.row_scales[0].scale;
      shared.row_scales[ThreadIndex()] = {scale, 0};
      if (BlockIndex() == 0 && p.row_scale_copy != nullptr && ThreadIndex() < p.m) p.row_scale_copy[ThreadIndex()] = scale;
    }
  }
  const GemvOutputs outputs(columns);
  DepositSums<kRows>(outputs, columns, sums, shared.sums);
  SyncThreads();
  const int row = outputs.row, column = outputs.column;
  if (row >= p.m || BlockIndex() * columns + column >= p.n) return;
  int32_t total[4];
  CollectSums<kRows>(row, column, columns, shared.sums, total);
  FinishIntegerFour(p, row, BlockIndex() * columns + column, total, shared.row_scales[row]);
}

template <int kRows>
TFCOMPRESS_GLOBAL(kGemvThreads, kGemvBlocksPerMultiprocessor)
FloatGemvKernel(CudaProblem p, int columns, int chunk_groups) {
  FloatGemv<Bytes, kRows>(p, columns, chunk_groups);
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
