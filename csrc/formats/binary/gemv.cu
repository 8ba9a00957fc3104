// y [m, n] for up to 8 rows: bound by the weights, which are read once. base/cuda_panels.cuh has what is the same for other formats.
#include "formats/binary/cuda_kernels.cuh"

namespace tfcompress::binary {
namespace {

static_assert(kGemvThreads == kPanelGemvThreads, "the planner and the kernels agree");
constexpr int kWarps = kPanelGemvWarps;

// What follows the loop: the block's threads add up their sums, and 32 consecutive threads at least, whole rows of them, finish. exact() turns
// sums into those of products.
template <int kRows, typename Exact>
TFCOMPRESS_DEVICE void FinishGemv(const CudaProblem& p, int columns, int32_t (&sums)[kRows][4], char* shared_sums,
                                  const RowScale* row_scales, const Exact& exact) {
  const GemvOutputs outputs(columns);
  DepositSums<kRows>(outputs, columns, sums, shared_sums);
  SyncThreads();
  const int row = outputs.row, column = outputs.column;
  if (outputs.thread / 32 * 32 >> outputs.bits >= p.m) return;  // the whole warp
  const bool exists = row < p.m && BlockIndex() * columns + column < p.n;
  int32_t total[4] = {};
  RowScale row_scale = {0.0f, 0};
  if (exists) {
    CollectSums<kRows>(row, column, columns, shared_sums, total);
    row_scale = row_scales[row];
#pragma unroll
    for (int c = 0; c < 4; ++c) total[c] = exact(total[c], row_scale.sum);
  }
  FinishExact(p, row, BlockIndex() * columns + column, exists, total, row_scale);
}

// ---- Binary activations ----------------------------------------------------------------------------------------------------------------

// Signs lie in shared memory word by word, up to four rows side by side: one load of up to 128 bits for them.
template <int kRows>
struct SignsShared : GemvShared<kRows> {
  static constexpr int kPacked = kRows < 4 ? kRows : 4;
  TFCOMPRESS_DEVICE SignsShared(int words, int columns) : GemvShared<kRows>(words * kRows * 4, columns), words_(words) {}
  // Of rows row ... row + kPacked - 1.
  TFCOMPRESS_DEVICE uint32_t* At(int word, int row) const {
    return reinterpret_cast<uint32_t*>(this->x) + (row / kPacked * words_ + word) * kPacked;
  }
  TFCOMPRESS_DEVICE uint32_t* One(int word, int row) const { return At(word, row) + row % kPacked; }

 private:
  int words_;
};

template <int kRows>
TFCOMPRESS_DEVICE void TakeSignsIntoShared(const CudaProblem& p, const SignsShared<kRows>& shared) {
  const int thread = NonNegativeThreadIndex(), warp = thread / 32, words = static_cast<int>(p.words);
  int32_t ones[kRows] = {};
  float magnitudes[kRows] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (p.x_signs != nullptr || r >= p.m) {
      for (int w = thread; w < words; w += kGemvThreads) {
        uint32_t word = r < p.m ? LoadReadOnly(p.x_signs + r * p.words + w) : 0;
        if (w == words - 1) word &= p.last_word_mask;
        *shared.One(w, r) = word;
        ones[r] += PopCount(word);
      }
    } else {
      // Whole warps, four activations a lane: eight lanes have a word.
      const CudaRow<int> row = RowOf<int>(p.x, r);
      const int place = thread % 8;
      for (int w = thread / 8; w - w % 4 < words; w += kGemvThreads / 8) {
        float v[4];
        LoadFour(row, w * static_cast<int>(kWordBits) + 4 * place, v);
        magnitudes[r] += (Abs(v[0]) + Abs(v[1])) + (Abs(v[2]) + Abs(v[3]));
        const auto sign = [&](int j) { return v[j] < 0.0f ? 0u : 1u << j; };
        uint32_t word = (sign(0) | sign(1) | sign(2) | sign(3)) << 4 * place;
#pragma unroll
        for (int lanes = 4; lanes > 0; lanes /= 2) word |= ShuffleXor(word, lanes);
        if (w == words - 1) word &= p.last_word_mask;
        if (place == 0 && w < words) {
          *shared.One(w, r) = word;
          ones[r] += PopCount(word);
        }
      }
      magnitudes[r] = WarpSumOfFloats(magnitudes[r]);
    }
    ones[r] = static_cast<int32_t>(WarpSum(static_cast<uint32_t>(ones[r])));
    if (thread % 32 == 0) {
      *shared.Number(0, warp, r) = static_cast<uint32_t>(ones[r]);
      *shared.Number(1, warp, r) = BitCast<uint32_t>(magnitudes[r]);
    }
  }
  SyncThreads();
  if (thread >= kRows) return;
  int32_t all_ones = 0;
  float all_magnitudes = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    all_ones += static_cast<int32_t>(*shared.Number(0, w, thread));
    all_magnitudes += BitCast<float>(*shared.Number(1, w, thread));
  }
  const RowScale row_scale = SignsRowScale(p, all_ones, all_magnitudes);
  shared.row_scales[thread] = row_scale;
  if (BlockIndex() == 0 && p.row_scale_copy != nullptr && thread < p.m) p.row_scale_copy[thread] = row_scale.scale;
}

template <int kRows>
TFCOMPRESS_GLOBAL(kGemvThreads, kGemvBlocksPerMultiprocessor)
SignsGemvKernel(CudaProblem p, int columns) {
  using Shared = SignsShared<kRows>;
  const int words = static_cast<int>(p.words);
  const Shared shared(words, columns);
  const GemvThread t(p, columns);
  int32_t sums[kRows][4] = {};
  Words4 raw[GemvUnroll(kRows)];
  LoadWeights<1>(t, t.word, words, raw);  // under way while x is prepared
  TakeSignsIntoShared<kRows>(p, shared);  // ends with a barrier for the signs
  ForEachWord<1>(t, 0, words, raw, [&](int w, const Words4& weights) {
    const uint32_t mask = w == words - 1 ? p.last_word_mask : 0xffffffffu;
#pragma unroll
    for (int r0 = 0; r0 < kRows; r0 += Shared::kPacked) {
      const auto x = tfcompress::LoadWords<Shared::kPacked>(shared.At(w, r0));
#pragma unroll
      for (int r = 0; r < Shared::kPacked; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[r0 + r][c] += PopCount((x.v[r] ^ weights.v[c]) & mask);
      }
    }
  });
  FinishGemv<kRows>(p, columns, sums, shared.sums, shared.row_scales,
                    [&](int32_t differing, int32_t) { return static_cast<int32_t>(p.k) - 2 * differing; });
}

// ---- int8 activations ------------------------------------------------------------------------------------------------------------------

// Fields whose levels stay at their bits in the bytes of a word, in sums of their own that are divided at the end: a mask in place of a shift and a
// mask, as far as registers reach. 127 * 2^7 * K / 4 fits for the K that shared memory holds.
template <Levels levels, int kRows>
inline constexpr int kFieldsInPlace = kRows == 1 || (kRows == 2 && levels == Levels::kTernary) ? 4 : 1;

template <Levels levels, int kRows>
TFCOMPRESS_GLOBAL(kGemvThreads, kGemvBlocksPerMultiprocessor)
BytesGemvKernel(CudaProblem p, int columns) {
  using F = Fields<levels>;
  constexpr int kInPlace = kFieldsInPlace<levels, kRows>;
  constexpr int kFours = F::kCount / 4;  // of 16 bytes of x in a word
  const int words = static_cast<int>(p.words);
  const GemvShared<kRows> shared(words * kRows * F::kDepth, columns);
  const GemvThread t(p, columns);
  // [kRows][kFours][words] of 16 bytes: consecutive words of a row, no bank conflicts.
  const auto x_at = [&](int r, int four, int w) { return shared.x + ((r * kFours + four) * words + w) * 16; };
  int32_t scaled[kInPlace][kRows][4] = {};
  Words4 raw[GemvUnroll(kRows)];
  LoadWeights<1>(t, t.word, words, raw);  // under way while x is prepared
  // 16 bytes at a time: byte j of word f of a four is the activation of k = j * kCount + f.
  QuantizeIntoShared<kRows, 1, 4>(
      p, nullptr, words * kFours, shared,
      [](const CudaRow<int>& row, int i, float(&v)[4][4]) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float of_j[4];
          LoadFour(row, i / kFours * F::kDepth + j * F::kCount + i % kFours * 4, of_j);
#pragma unroll
          for (int f = 0; f < 4; ++f) v[f][j] = of_j[f];
        }
      },
      [&](int i, int r, const Words4& four) { StoreShared<4>(x_at(r, i % kFours, i / kFours), four); });
  ForEachWord<1>(t, 0, words, raw, [&](int w, const Words4& weights) {
#pragma unroll
    for (int four = 0; four < kFours; ++four) {
#pragma unroll
      for (int f = 4 * four; f < 4 * four + 4; ++f) {
        uint32_t field[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) field[c] = weights.v[c] >> (f / kInPlace * kInPlace * F::kBits) & F::kMask << (f % kInPlace * F::kBits);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const uint32_t x = LoadWords<4>(x_at(r, four, w)).v[f % 4];
#pragma unroll
          for (int c = 0; c < 4; ++c) scaled[f % kInPlace][r][c] = Dot4(x, field[c], scaled[f % kInPlace][r][c]);
        }
      }
    }
  });
  int32_t sums[kRows][4] = {};
#pragma unroll
  for (int i = 0; i < kInPlace; ++i) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[r][c] += scaled[i][r][c] >> (i * F::kBits);
    }
  }
  FinishGemv<kRows>(p, columns, sums, shared.sums, shared.row_scales, [&](int32_t sum, int32_t of_x) { return F::kFactor * sum - of_x; });
}

// ---- Float activations -----------------------------------------------------------------------------------------------------------------

template <Levels levels, int kRows>
TFCOMPRESS_GLOBAL(kGemvThreads, kGemvBlocksPerMultiprocessor)
FloatGemvKernel(CudaProblem p, int columns, int chunk) {
  FloatGemv<FloatLevels<levels>, kRows>(p, columns, chunk);
}

struct Variant {
  int rows;
  void (*signs)(CudaProblem, int);
  void (*bytes[kNumLevels])(CudaProblem, int);
  void (*floats[kNumLevels])(CudaProblem, int, int);
};
template <int kRows>
constexpr Variant VariantOf() {
  return {kRows,
          SignsGemvKernel<kRows>,
          {BytesGemvKernel<Levels::kBinary, kRows>, BytesGemvKernel<Levels::kTernary, kRows>},
          {FloatGemvKernel<Levels::kBinary, kRows>, FloatGemvKernel<Levels::kTernary, kRows>}};
}
constexpr Variant kVariants[] = {VariantOf<1>(), VariantOf<2>(), VariantOf<4>(), VariantOf<8>()};

}  // namespace

std::string LaunchGemv(const CudaProblem& p, const MatMulArgs& args, const GemvPlan& plan, void* stream) {
  const int64_t shared_bytes = GemvSharedBytes(args, plan);
  const auto levels = static_cast<int>(args.levels);
  const auto launch = [&](const char* name, auto kernel, auto... chunk) {
    return LaunchKernel(name, kernel, plan.blocks, kGemvThreads, shared_bytes, stream, p, plan.columns, chunk...);
  };
  for (const Variant& v : kVariants) {
    if (v.rows != GemvRows(p.m)) continue;
    if (args.activations == Activations::kBinary) return launch("binary GEMV", v.signs);
    if (args.activations == Activations::kInt8) return launch("binary GEMV of int8 activations", v.bytes[levels]);
    return launch("binary GEMV of float activations", v.floats[levels], plan.chunk);
  }
  return "";
}

}  // namespace tfcompress::binary
