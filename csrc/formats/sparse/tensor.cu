// Pruned weights on tensor cores: see cuda.h for when. A block has four warps, four panels of 16 outputs, and 32 to 256 rows of x.
//
// A stage is the stride of a window: 64 bytes of K. Steps ascend by window, and a window reaches into up to three stages behind its own; so dense
// weights lie in a ring of slots, one for a stage. When the steps of window s have been expanded, stage s is complete. While it is multiplied, steps of
// window s + 1 are expanded into later slots, and a slot that nobody needs is cleared: one barrier a stage.
//
//     ring, int8:    | s - 1   | s             | s + 1           | s + 2   |
//                    | unused  | is multiplied | being completed | cleared |
//
// Of an output the slots lie one after the other, its 16-byte pieces exchanged by (output mod 8), so that ldmatrix reads without bank conflicts.
#include "formats/sparse/cuda_kernels.cuh"

namespace tfcompress::sparse {
namespace {

constexpr int kWarps = kTensorThreads / 32;
static_assert(kWarps * kLanes == kTensorColumns, "a warp expands a panel");
constexpr int kMostWindow = 0x7fffffff;

// Whether tensor cores multiply values of a type.
template <Values kValues>
constexpr bool kMultiplies = Types<kValues>::kInteger || kHasFloatMatrices;

template <Values kValues>
TFCOMPRESS_DEVICE void MultiplyAddTile(Sum<kValues> (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kValues == Values::kInt8) {
    MultiplyAddSignedMatrices(c, a, b0, b1);
  } else if constexpr (kValues == Values::kBFloat16) {
    MultiplyAddBFloat16Matrices(c, a, b0, b1);
  } else {
    MultiplyAddTensorFloatMatrices(c, a, b0, b1);
  }
}

// ---- x ------------------------------------------------------------------------------------------------------------------------------

constexpr int kRoundThreads = 128;

// A block for each row: x_q[row] = x[row], rounded to bfloat16 or TensorFloat-32; zeros beyond k.
template <Values kValues>
TFCOMPRESS_GLOBAL(kRoundThreads, 8)
RoundRowsKernel(Problem p) {
  static_assert(!Types<kValues>::kInteger, "integers are quantised");
  if constexpr (kMultiplies<kValues>) {
    constexpr int kBytes = static_cast<int>(ValueBytes(kValues));
    const CudaRow<int64_t> row = RowOf<int64_t>(p.x, BlockIndex());
    uint8_t* const to = p.x_q + BlockIndex() * p.x_q_stride;
#pragma unroll 2
    for (int64_t k = 4 * ThreadIndex(); k * kBytes < p.x_q_stride; k += 4 * kRoundThreads) {
      float v[4];
      LoadFour(row, k, v);
      if constexpr (kValues == Values::kFloat32) {
        StoreGlobal<4>(to + k * kBytes, {{ToTensorFloat(v[0]), ToTensorFloat(v[1]), ToTensorFloat(v[2]), ToTensorFloat(v[3])}});
      } else {
        const auto pair = [&](int i) { return ToBFloat16(v[i]) | static_cast<uint32_t>(ToBFloat16(v[i + 1])) << 16; };
        StoreGlobal<2>(to + k * kBytes, {{pair(0), pair(2)}});
      }
    }
  }
}

// Brings stages of prepared rows into shared memory: [rows][64 bytes], the 16-byte pieces of a row exchanged by (row / 2 mod 4). With cp.async Start()
// does it all and WaitCopies() tells when; without, Finish() writes what Start() loaded.
template <int kRows>
class RowCopies {
  static constexpr int kAtATime = kTensorThreads / 4;
  static constexpr int kCopies = kRows / kAtATime;

 public:
  TFCOMPRESS_DEVICE RowCopies(const Problem& p, int64_t first_row, int64_t first_stage) {
    const int thread = ThreadIndex();
    row_ = thread / 4;
    left_ = static_cast<int>(p.x.m - first_row < kRows ? p.x.m - first_row : kRows);
    step_bytes_ = kAtATime * p.x_q_stride;
    from_ = p.x_q + (first_row + row_) * p.x_q_stride + first_stage * kTensorRowBytes + thread % 4 * 16;
    to_ = row_ * kTensorRowBytes + (thread % 4 ^ row_ / 2 % 4) * 16;
  }
  TFCOMPRESS_DEVICE void Start(char* to) {
#pragma unroll
    for (int c = 0; c < kCopies; ++c) {
      const bool exists = row_ + c * kAtATime < left_;
      const uint8_t* const from = exists ? from_ + c * step_bytes_ : from_ - row_ * (step_bytes_ / kAtATime);
      if constexpr (kHasCopyAsync) {
        CopyAsync(to + to_ + c * kAtATime * kTensorRowBytes, from, exists ? 16 : 0);
      } else {
        loaded_[c] = {{0, 0, 0, 0}};
        if (exists) loaded_[c] = LoadWords<4>(from);
      }
    }
    from_ += kTensorRowBytes;
  }
  TFCOMPRESS_DEVICE void Finish(char* to) {
    if constexpr (!kHasCopyAsync) {
#pragma unroll
      for (int c = 0; c < kCopies; ++c) StoreShared(to + to_ + c * kAtATime * kTensorRowBytes, loaded_[c]);
    }
  }

 private:
  const uint8_t* from_;
  int64_t step_bytes_;
  int row_, left_, to_;
  Words4 loaded_[kCopies];
};

// ---- Weights ------------------------------------------------------------------------------------------------------------------------

// A panel's steps as its warp expands them, window after window: two at a time, 16 lanes for the words of a step.
template <Values kValues>
class Expansion {
  static constexpr int kEntries = Types<kValues>::kEntries;
  static constexpr int kBytes = static_cast<int>(ValueBytes(kValues));
  static constexpr int kRingBytes = TensorSlots(kValues) * kTensorRowBytes;  // of an output
  static constexpr int kHeld = 4;  // passes whose words are under way while a stage is multiplied: eight steps are a window of 2:4
  using Indices = std::conditional_t<kEntries == 1, uint8_t, std::conditional_t<kEntries == 2, uint16_t, uint32_t>>;

 public:
  static constexpr int kRing = kTensorColumns * kRingBytes;
  // Where 16 bytes of a slot of an output lie in the ring.
  TFCOMPRESS_DEVICE static int PlaceOf(int output, int64_t slot_byte) {
    return output * kRingBytes + ((static_cast<int>(slot_byte) & (kRingBytes - 1)) ^ output % 8 * 16);
  }

  TFCOMPRESS_DEVICE Expansion(const Problem& p, int64_t panel, int64_t first_window, char* ring) {
    const int lane = ThreadIndex() % 32;
    half_ = lane / 16;
    output_ = ThreadIndex() / 32 * 16 + lane % 16;
    ring_ = ring + output_ * kRingBytes;
    exchanged_ = output_ % 8 * 16;
    mask_ = static_cast<int>(p.matrix.reach) - 1;
    Steps steps = {0, 0};
    if (panel < NumPanels(p.matrix.n)) steps = StepsOf(p, panel);
    // The first step whose window is not before first_window.
    int64_t begin = steps.begin, end = steps.end;
    while (first_window > 0 && begin < end) {
      const int64_t middle = begin + (end - begin) / 2;
      if (LoadReadOnly(p.matrix.windows + middle) < first_window) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    left_ = static_cast<int>(steps.end - begin);
    values_ = static_cast<const uint32_t*>(p.matrix.values) + begin * 16 + lane;
    indices_ = reinterpret_cast<const Indices*>(p.matrix.indices) + begin * 16 + lane;
    windows_ = p.matrix.windows + begin + lane;
    LoadWindows();
  }

  // Finds the steps of `window`, at most 32, and starts to load them. The windows that follow are on their way when it returns.
  TFCOMPRESS_DEVICE void Start(int window) {
    count_ = PopCount(Ballot(window_ <= window));
    // Windows ascend, or the bytes are no matrix.
    held_values_ = values_;
    held_indices_ = indices_;
#pragma unroll
    for (int u = 0; u < kHeld; ++u) Load(u, u);
    values_ += count_ * 16;
    indices_ += count_ * 16;
    windows_ += count_;
    left_ -= count_;
    LoadWindows();
  }

  // Writes them.
  TFCOMPRESS_DEVICE void Finish(int window) {
    for (;;) {
      int passes = (count_ + 1) / 2;
#pragma unroll
      for (int u = 0; u < kHeld; ++u) Store(u, u, window);
#pragma unroll 1
      for (int first = kHeld; first < passes; first += kHeld) {
#pragma unroll
        for (int u = 0; u < kHeld; ++u) Load(u, first + u);
#pragma unroll
        for (int u = 0; u < kHeld; ++u) Store(u, first + u, window);
      }
      if (count_ < 32) return;
      Start(window);  // no packer makes so many steps of a window, but they may be there
    }
  }

 private:
  TFCOMPRESS_DEVICE void LoadWindows() {
    window_ = kMostWindow;
    if (ThreadIndex() % 32 < left_) window_ = LoadReadOnly(windows_);
  }
  TFCOMPRESS_DEVICE void Load(int u, int pass) {
    if (2 * pass + half_ >= count_) return;
    loaded_[u] = LoadReadOnly(held_values_ + pass * 32);
    loaded_indices_[u] = LoadReadOnly(held_indices_ + pass * 32);
  }
  TFCOMPRESS_DEVICE void Store(int u, int pass, int window) {
    if (2 * pass + half_ >= count_) return;
#pragma unroll
    for (int e = 0; e < kEntries; ++e) {
      const int index = static_cast<int>(static_cast<uint32_t>(loaded_indices_[u]) >> (8 * e) & 0xffu);
      if (index >= kPadding) continue;
      char* const to = ring_ + (((window * kTensorRowBytes + (index & mask_) * kBytes) & (kRingBytes - 1)) ^ exchanged_);
      if constexpr (kValues == Values::kFloat32) {
        *reinterpret_cast<uint32_t*>(to) = ToTensorFloat(BitCast<float>(loaded_[u]));
      } else if constexpr (kValues == Values::kBFloat16) {
        *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(loaded_[u] >> (16 * e));
      } else {
        *to = static_cast<char>(loaded_[u] >> (8 * e));
      }
    }
  }

  const uint32_t *values_, *held_values_;
  const Indices *indices_, *held_indices_;
  const uint16_t* windows_;
  char* ring_;
  int left_, count_, window_, half_, output_, exchanged_, mask_;
  uint32_t loaded_[kHeld];
  Indices loaded_indices_[kHeld];
};

// ---- Product ------------------------------------------------------------------------------------------------------------------------

// The sums of a warp. Weights are the left operand of mma, activations the right one: y transposed.
template <Values kValues, int kTile>
struct WarpSums {
  static constexpr GemmTile kT = kTensorTiles[kTile];
  static constexpr int kSlabs = kT.warp_rows / 16;  // of 16 rows of x: two mma, one ldmatrix
  static constexpr int kWide = kT.warp_columns / 16;

  TFCOMPRESS_DEVICE WarpSums() {
    constexpr int kAcross = kT.columns / kT.warp_columns;
    const int warp = ThreadIndex() / 32;
    row = warp / kAcross * kT.warp_rows;
    column = warp % kAcross * kT.warp_columns;
  }

  TFCOMPRESS_DEVICE void MultiplyStage(const char* x_stage, const char* ring, int stage) {
    const int lane = ThreadIndex() % 32;
    const char* const x = x_stage + (row + lane / 16 * 8 + lane % 8) * kTensorRowBytes;
    const int piece = lane / 8 % 2 ^ lane % 8 / 2;  // of K's first or second 16 bytes, in its place
#pragma unroll
    for (int s = 0; s < kTensorRowBytes / 32; ++s) {
      uint32_t b[kSlabs][4];
#pragma unroll
      for (int i = 0; i < kSlabs; ++i) LoadMatrices(b[i], x + i * 16 * kTensorRowBytes + (piece ^ 2 * s) * 16);
      const char* const weights = ring + Expansion<kValues>::PlaceOf(column + lane % 16, stage * kTensorRowBytes + s * 32 + lane / 16 * 16);
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
        uint32_t a[4];
        LoadMatrices(a, weights + j * (Expansion<kValues>::kRing / 4));  // 16 outputs further
#pragma unroll
        for (int i = 0; i < kSlabs; ++i) {
          MultiplyAddTile<kValues>(sums[i][0][j], a, b[i][0], b[i][1]);
          MultiplyAddTile<kValues>(sums[i][1][j], a, b[i][2], b[i][3]);
        }
      }
    }
  }

  // Writes the sums of slab i to `to`, [16 rows][kTensorSumsPitch], beginning at the block's first output.
  TFCOMPRESS_DEVICE void Write(int i, Sum<kValues>* to) const {
    const int lane = ThreadIndex() % 32;
    Sum<kValues>* const first = to + lane % 4 * 2 * kTensorSumsPitch + column + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
#pragma unroll
        for (int c = 0; c < 4; ++c) first[(8 * half + c % 2) * kTensorSumsPitch + 16 * j + c / 2 * 8] = sums[i][half][j][c];
      }
    }
  }

  int row, column;  // in the block's tile
  Sum<kValues> sums[kSlabs][2][kWide][4] = {};
};

template <Values kValues, int kTile>
TFCOMPRESS_GLOBAL(kTensorThreads, kTensorTiles[kTile].blocks)
TensorKernel(Problem p, TensorPlan plan) {
  if constexpr (kMultiplies<kValues>) {
    using T = Sum<kValues>;
    constexpr GemmTile kT = kTensorTiles[kTile];
    constexpr int kStages = GemmStages(kT, kHasCopyAsync ? 80 : 75);
    constexpr int kStageBytes = kT.rows * kTensorRowBytes;
    constexpr int kSpan = TensorSpan(kValues);
    char* const ring = SharedMemory();
    char* const x = ring + Expansion<kValues>::kRing;
    const int thread = ThreadIndex();
    const int64_t tiles = plan.row_tiles * plan.column_tiles, in_split = BlockIndex() % tiles, split = BlockIndex() / tiles;
    // Blocks that run at the same time share the steps of a few panels.
    const int64_t first_row = in_split % plan.row_tiles * kT.rows, panel = in_split / plan.row_tiles * kWarps;
    const int first = static_cast<int>(split * plan.stages), all = static_cast<int>(NumWindows(kValues, p.matrix.k));
    const int end = all - first < plan.stages ? all : first + static_cast<int>(plan.stages);

    RowCopies<kT.rows> copies(p, first_row, first);
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (first + s < end) {
        copies.Start(x + s * kStageBytes);
        copies.Finish(x + s * kStageBytes);
      }
      CommitCopies();
    }
    for (int i = thread * 16; i < Expansion<kValues>::kRing; i += kTensorThreads * 16) StoreShared<4>(ring + i, {{0, 0, 0, 0}});
    SyncThreads();
    // What windows before the first stage put into stages before it is cleared before its slots are used.
    const int from = first < kSpan ? 0 : first - kSpan + 1;
    Expansion<kValues> expansion(p, panel + thread / 32, from, ring);
#pragma unroll 1
    for (int window = from; window <= first && first < end; ++window) {
      expansion.Start(window);
      expansion.Finish(window);
    }
    WarpSums<kValues, kTile> warp;
    int slot = 0, free_slot = kStages - 1;
#pragma unroll 1
    for (int s = first; s < end; ++s) {
      WaitCopies<kStages - 2>();
      SyncThreads();  // stage s is complete, and everybody has multiplied stage s - 1
      const bool more = s + kStages - 1 < end;
      if (more) copies.Start(x + free_slot * kStageBytes);
      CommitCopies();
      expansion.Start(s + 1);
      warp.MultiplyStage(x + slot * kStageBytes, ring, s);
      expansion.Finish(s + 1);
      // Eight lanes take two outputs four apart: all banks.
#pragma unroll
      for (int i = 0; i < kTensorColumns * 4; i += kTensorThreads) {
        const int output = i / 4 + thread / 32 * 8 + thread / 4 % 2 * 4 + thread / 8 % 4;
        StoreShared<4>(ring + Expansion<kValues>::PlaceOf(output, (s + 1 + kSpan) * kTensorRowBytes + thread % 4 * 16), {{0, 0, 0, 0}});
      }
      if (more) copies.Finish(x + free_slot * kStageBytes);
      slot = slot + 1 == kStages ? 0 : slot + 1;
      free_slot = free_slot + 1 == kStages ? 0 : free_slot + 1;
    }
    // The groups that nobody has waited for are empty.

    constexpr int kRows = TensorEpilogueRows(kT);
    T* const staged = reinterpret_cast<T*>(SharedMemory());
    const int column = thread % kTensorColumns;
    const int64_t output = OutputOf(p, panel + column / kLanes, column % static_cast<int>(kLanes));
    const bool fits = Fits(p);
#pragma unroll 1
    for (int pass = 0; pass < kT.rows / kRows; ++pass) {
      SyncThreads();  // what lay there has been read
#pragma unroll
      for (int i = 0; i < WarpSums<kValues, kTile>::kSlabs; ++i) {
        const int row = warp.row + 16 * i - pass * kRows;
        if (row >= 0 && row < kRows) warp.Write(i, staged + row * kTensorSumsPitch);
      }
      SyncThreads();
#pragma unroll 1
      for (int r = thread / kTensorColumns; r < kRows; r += kTensorThreads / kTensorColumns) {
        const int64_t row = first_row + pass * kRows + r;
        if (row >= p.x.m) break;
        const T sum = staged[r * kTensorSumsPitch + column];
        if (p.partial_sums != nullptr) {
          static_cast<T*>(p.partial_sums)[(split * p.x.m + row) * p.partial_stride + panel * kLanes + column] = sum;
        } else if (output >= 0) {
          Finish(p, fits, row, output, sum);
        }
      }
    }
  }
}

constexpr int kFinishThreads = 128;

// Adds the sums of all parts of K. A thread for each output.
template <Values kValues>
TFCOMPRESS_GLOBAL(kFinishThreads, 8)
FinishSplitsKernel(Problem p, int splits) {
  using T = Sum<kValues>;
  const int64_t i = BlockIndex() * kFinishThreads + ThreadIndex();
  const int64_t row = i / p.partial_stride, column = i % p.partial_stride;
  if (row >= p.x.m) return;
  T sum = 0;
#pragma unroll 4
  for (int s = 0; s < splits; ++s) sum += LoadReadOnly(static_cast<const T*>(p.partial_sums) + (s * p.x.m + row) * p.partial_stride + column);
  const int64_t output = OutputOf(p, column / kLanes, static_cast<int>(column % kLanes));
  if (output >= 0) Finish(p, Fits(p), row, output, sum);
}

template <Values kValues>
std::string Launch(const Problem& p, const TensorPlan& plan, const CudaDevice& device, void* stream) {
  if constexpr (!Types<kValues>::kInteger) {
    const std::string error = LaunchKernel("rounding of rows", RoundRowsKernel<kValues>, p.x.m, kRoundThreads, 0, stream, p);
    if (!error.empty()) return error;
  }
  using Kernel = void (*)(Problem, TensorPlan);
  constexpr Kernel kKernels[] = {TensorKernel<kValues, 0>, TensorKernel<kValues, 1>, TensorKernel<kValues, 2>, TensorKernel<kValues, 3>};
  static_assert(sizeof(kKernels) / sizeof(kKernels[0]) == kNumTensorTiles, "a kernel for every tile");
  const GemmTile& tile = kTensorTiles[plan.tile];
  const std::string error =
      LaunchKernel("sparse product on tensor cores", kKernels[plan.tile], plan.row_tiles * plan.column_tiles * plan.splits, GemmThreads(tile),
                   TensorSharedBytes(tile, kValues, device.compute_capability), stream, p, plan);
  if (!error.empty() || plan.splits == 1) return error;
  return LaunchKernel("sparse product on tensor cores, sums of splits", FinishSplitsKernel<kValues>, DivideUp(p.x.m * p.partial_stride, kFinishThreads),
                      kFinishThreads, 0, stream, p, static_cast<int>(plan.splits));
}

}  // namespace

std::string LaunchTensor(const Problem& p, const TensorPlan& plan, const CudaDevice& device, void* stream) {
  switch (p.matrix.values_type) {
    case Values::kFloat32:
      return Launch<Values::kFloat32>(p, plan, device, stream);
    case Values::kBFloat16:
      return Launch<Values::kBFloat16>(p, plan, device, stream);
    default:
      return Launch<Values::kInt8>(p, plan, device, stream);
  }
}

}  // namespace tfcompress::sparse
