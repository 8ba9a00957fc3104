// Pruned weights on the GPU: see cuda.h for what runs when. A step of a panel is 64 bytes of values whatever their type: four threads load them.
#include "formats/sparse/cuda_kernels.cuh"

namespace tfcompress::sparse {
namespace {

// A thread's part of a step: four lanes' values and indices.
template <Values kValues>
struct StepPart {
  Words4 values;
  Words<Types<kValues>::kEntries> indices;  // one byte each, four lanes' entries
  int first;                                // of the window in x
  TFCOMPRESS_DEVICE int IndexOf(int lane, int e) const {
    const int byte = lane * Types<kValues>::kEntries + e;
    return static_cast<int>(indices.v[byte / 4] >> (8 * (byte % 4)) & 0xffu);
  }
};

template <Values kValues>
TFCOMPRESS_DEVICE StepPart<kValues> LoadStep(const Problem& p, int64_t step, int quarter) {
  constexpr int kEntries = Types<kValues>::kEntries;
  StepPart<kValues> part;
  part.values = LoadStreaming(static_cast<const char*>(p.matrix.values) + step * 64 + quarter * 16);
  part.indices = LoadWordsReadOnly<kEntries>(p.matrix.indices + (step * 4 + quarter) * 4 * kEntries);
  const int64_t window = LoadReadOnly(p.matrix.windows + step);
  part.first = static_cast<int>((window < p.last_window ? window : p.last_window) * Types<kValues>::kStride);
  return part;
}

// x[row, k], 0 where there is none, as it is multiplied.
template <Values kValues>
TFCOMPRESS_DEVICE Sum<kValues> LoadX(const Problem& p, int64_t row, int64_t k) {
  if (row >= p.x.m || k >= p.matrix.k) return 0;
  if constexpr (Types<kValues>::kInteger) {
    return static_cast<int8_t>(LoadReadOnly(p.x_q + row * p.x_q_stride + k));
  } else {
    const int64_t at = row * p.x.stride + k;
    if (p.x.type == ElementType::kFloat32) return LoadReadOnly(static_cast<const float*>(p.x.x) + at);
    const uint16_t h = LoadReadOnly(static_cast<const uint16_t*>(p.x.x) + at);
    return p.x.type == ElementType::kBFloat16 ? FromBFloat16(h) : FromFloat16(h);
  }
}

// The same of k ... k + 3; k is a multiple of 4.
template <Values kValues>
TFCOMPRESS_DEVICE void LoadFourX(const Problem& p, int64_t row, int64_t k, Sum<kValues> (&v)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = 0;
  if (row >= p.x.m || k >= p.matrix.k) return;
  if constexpr (Types<kValues>::kInteger) {
    const uint32_t word = LoadReadOnly(reinterpret_cast<const uint32_t*>(p.x_q + row * p.x_q_stride + k));
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = static_cast<int8_t>(word >> (8 * j));
  } else {
    LoadFour(p.x, row, k, v);
  }
}

// ---- Few rows -----------------------------------------------------------------------------------------------------------------------

// Steps of a thread under way: 128 threads x 4 x 16 bytes are 8 KiB of values in a block; eight rows, or x that isn't held,
// leave registers for two.
TFCOMPRESS_INLINE constexpr int GatherUnroll(int rows, bool shared) { return rows == 8 || !shared ? 2 : 4; }
constexpr int kGatherSlots = kGatherThreads / 4;  // steps at a time
constexpr int kGatherWarps = kGatherThreads / 32;

// Shared memory: x [extent][kRows], if it is held | sums of each warp [warps][kRows][16]
template <Values kValues, int kRows, bool kShared>
TFCOMPRESS_GLOBAL(kGatherThreads, kRows == 8 || !kShared ? 2 : 4)
GatherKernel(Problem p, int64_t row_parts) {
  using T = Sum<kValues>;
  constexpr int kEntries = Types<kValues>::kEntries;
  constexpr int kUnroll = GatherUnroll(kRows, kShared);
  T* const x = reinterpret_cast<T*>(SharedMemory());
  T* const of_warps = x + (kShared ? p.extent * kRows : 0);
  const int thread = ThreadIndex(), quarter = thread % 4;
  const int64_t panel = BlockIndex() / row_parts, first_row = BlockIndex() % row_parts * kRows;
  if constexpr (kShared) {
    for (int64_t i = thread; i < p.extent * kRows; i += kGatherThreads) {
      // Neighbours load neighbouring k of one row.
      const int64_t r = i / p.extent, k = i % p.extent;
      x[k * kRows + r] = LoadX<kValues>(p, first_row + r, k);
    }
    SyncThreads();
  }
  const Steps steps = StepsOf(p, panel);
  const int mask = static_cast<int>(p.matrix.reach) - 1;
  T sums[4][kRows] = {};
  for (int64_t s = steps.begin + thread / 4; s < steps.end; s += kUnroll * kGatherSlots) {
    StepPart<kValues> parts[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (s + u * kGatherSlots < steps.end) parts[u] = LoadStep<kValues>(p, s + u * kGatherSlots, quarter);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (s + u * kGatherSlots >= steps.end) break;
#pragma unroll
      for (int lane = 0; lane < 4; ++lane) {
#pragma unroll
        for (int e = 0; e < kEntries; ++e) {
          const T value = ValueOf<kValues>(parts[u].values.v[lane], e);
          const int k = parts[u].first + (parts[u].IndexOf(lane, e) & mask);
          constexpr int kPacked = kRows < 4 ? kRows : 4;
#pragma unroll
          for (int r0 = 0; r0 < kRows; r0 += kPacked) {
            Words<kPacked> v;
            if constexpr (kShared) v = LoadWords<kPacked>(x + k * kRows + r0);
#pragma unroll
            for (int r = r0; r < r0 + kPacked; ++r) {
              T activation;
              if constexpr (kShared) {
                activation = BitCast<T>(v.v[r - r0]);
              } else {
                activation = LoadX<kValues>(p, first_row + r, k);
              }
              sums[lane][r] = MultiplyAdd(activation, value, sums[lane][r]);
            }
          }
        }
      }
    }
  }
#pragma unroll
  for (int lane = 0; lane < 4; ++lane) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int lanes = 4; lanes < 32; lanes *= 2) sums[lane][r] += ShuffleXor(sums[lane][r], lanes);
      if (thread % 32 < 4) of_warps[(thread / 32 * kRows + r) * kLanes + quarter * 4 + lane] = sums[lane][r];
    }
  }
  SyncThreads();
  const bool fits = Fits(p);
  for (int i = thread; i < kRows * kLanes; i += kGatherThreads) {
    const int64_t row = first_row + i / kLanes, output = OutputOf(p, panel, i % static_cast<int>(kLanes));
    if (row >= p.x.m || output < 0) continue;
    T sum = 0;
    for (int w = 0; w < kGatherWarps; ++w) sum += of_warps[w * kRows * kLanes + i];
    Finish(p, fits, row, output, sum);
  }
}

// ---- Many rows ----------------------------------------------------------------------------------------------------------------------

constexpr int64_t ColumnsSharedBytes(int64_t reach) { return (kColumnsAdvance + reach) * kColumnsRows * 4; }
// Sums on their way to the epilogue: [panels][16][64 rows + 1]; the odd pitch keeps columns apart.
constexpr int64_t kSumsPitch = kColumnsRows + 1;
static_assert(8 * kLanes * kSumsPitch * 4 <= ColumnsSharedBytes(64), "sums fit where x lay");

template <Values kValues>
TFCOMPRESS_GLOBAL(256, 1)
ColumnsKernel(Problem p, int warps, int64_t row_tiles) {
  using T = Sum<kValues>;
  constexpr int kEntries = Types<kValues>::kEntries;
  T* const x = reinterpret_cast<T*>(SharedMemory());  // [k of the chunk][64 rows]
  const int thread = ThreadIndex(), lane = thread % 32, mask = static_cast<int>(p.matrix.reach) - 1;
  const int64_t first_row = BlockIndex() % row_tiles * kColumnsRows;
  const int64_t panel = BlockIndex() / row_tiles * warps + thread / 32;
  const bool exists = panel < NumPanels(p.matrix.n);
  const Steps steps = exists ? StepsOf(p, panel) : Steps{0, 0};
  const int chunk = static_cast<int>(kColumnsAdvance + p.matrix.reach);  // windows that begin in its first part end in it
  int64_t step = steps.begin;
  T sums[kLanes][2] = {};
  for (int64_t begin = 0; begin < p.matrix.k; begin += kColumnsAdvance) {
    if (begin > 0) SyncThreads();  // the chunk before has been multiplied
    // A lane takes rows of its own: what 32 lanes store for one k are different banks. Eight k of a row are a sector.
    for (int k = thread / 32 * 8; k < chunk; k += warps * 8) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = lane + i / 2 * 32, k4 = k + i % 2 * 4;
        T four[4];
        LoadFourX<kValues>(p, first_row + row, begin + k4, four);
#pragma unroll
        for (int j = 0; j < 4; ++j) x[(k4 + j) * static_cast<int>(kColumnsRows) + row] = four[j];
      }
    }
    SyncThreads();
    for (; step < steps.end; ++step) {
      const int64_t window = LoadReadOnly(p.matrix.windows + step);
      const int64_t first = (window < p.last_window ? window : p.last_window) * Types<kValues>::kStride - begin;
      if (first >= kColumnsAdvance) break;  // of the next chunk
      // Windows ascend, or the bytes are no matrix.
      const T* const of_step = x + static_cast<int>(first < 0 ? 0 : first) * static_cast<int>(kColumnsRows) + 2 * lane;
#pragma unroll
      for (int quarter = 0; quarter < 4; ++quarter) {
        const StepPart<kValues> part = LoadStep<kValues>(p, step, quarter);
#pragma unroll
        for (int l = 0; l < 4; ++l) {
#pragma unroll
          for (int e = 0; e < kEntries; ++e) {
            const T value = ValueOf<kValues>(part.values.v[l], e);
            const Words<2> v = LoadWords<2>(of_step + (part.IndexOf(l, e) & mask) * static_cast<int>(kColumnsRows));
#pragma unroll
            for (int r = 0; r < 2; ++r) sums[4 * quarter + l][r] = MultiplyAdd(BitCast<T>(v.v[r]), value, sums[4 * quarter + l][r]);
          }
        }
      }
    }
  }
  SyncThreads();
  T* const staged = x + thread / 32 * kLanes * kSumsPitch;
#pragma unroll
  for (int l = 0; l < kLanes; ++l) {
#pragma unroll
    for (int r = 0; r < 2; ++r) staged[l * kSumsPitch + 2 * lane + r] = sums[l][r];
  }
  SyncWarp();
  const int64_t output = exists ? OutputOf(p, panel, lane % static_cast<int>(kLanes)) : -1;
  const bool fits = Fits(p);
#pragma unroll 1
  for (int64_t r = lane / kLanes; r < kColumnsRows; r += 2) {
    if (output >= 0 && first_row + r < p.x.m) Finish(p, fits, first_row + r, output, staged[lane % kLanes * kSumsPitch + r]);
  }
}

// ---- Weights and their gradient -----------------------------------------------------------------------------------------------------

constexpr int kPanelThreads = 128;

TFCOMPRESS_GLOBAL(kPanelThreads, 8)
ZeroKernel(float* to, int64_t count) {
  const int64_t i = BlockIndex() * kPanelThreads + ThreadIndex();
  if (i < count) to[i] = 0.0f;
}

// Calls f(place in the arrays, k, output) for the stored weights of a panel, from the part-th of `parts` blocks.
template <typename F>
TFCOMPRESS_DEVICE void ForEachWeight(const Problem& p, int64_t panel, int64_t part, int64_t parts, const F& f) {
  const int64_t entries = Entries(p.matrix.values_type), step_entries = StepEntries(p.matrix.values_type);
  const Steps steps = StepsOf(p, panel);
  const int64_t end = steps.end * step_entries;
  for (int64_t at = steps.begin * step_entries + part * kPanelThreads + ThreadIndex(); at < end; at += parts * kPanelThreads) {
    const int64_t index = LoadReadOnly(p.matrix.indices + at);
    const int64_t window = LoadReadOnly(p.matrix.windows + at / step_entries);
    const int64_t k = window * Stride(p.matrix.values_type) + (index & (p.matrix.reach - 1));
    const int64_t output = OutputOf(p, panel, static_cast<int>(at % step_entries / entries));
    f(at, index >= kPadding || k >= p.matrix.k ? -1 : k, output);
  }
}

template <Values kValues>
TFCOMPRESS_GLOBAL(kPanelThreads, 4)
UnpackKernel(Problem p, float* weights) {
  constexpr int kEntries = Types<kValues>::kEntries;
  ForEachWeight(p, BlockIndex(), 0, 1, [&](int64_t at, int64_t k, int64_t output) {
    if (k < 0 || output < 0) return;
    const uint32_t word = LoadReadOnly(static_cast<const uint32_t*>(p.matrix.values) + at / kEntries);
    const auto value = static_cast<float>(ValueOf<kValues>(word, static_cast<int>(at % kEntries)));
    weights[k * p.matrix.n + output] = (p.epilogue.scale != nullptr ? LoadReadOnly(p.epilogue.scale + output) : 1.0f) * value;
  });
}

constexpr int64_t kGradientParts = 4;  // blocks of a panel

// A thread for each stored weight: x[:, k] . dz[:, n], rows in order. A panel's 16 columns of dz and a window's 64 of x are a few lines of
// every row, which stay in L1 while the panel's steps pass.
TFCOMPRESS_GLOBAL(kPanelThreads, 4)
ValuesGradientKernel(Problem p, const float* dz, int64_t m, float* gradient) {
  ForEachWeight(p, BlockIndex() / kGradientParts, BlockIndex() % kGradientParts, kGradientParts, [&](int64_t at, int64_t k, int64_t output) {
    float sum = 0.0f;
    if (k >= 0 && output >= 0) {
      const float* x = static_cast<const float*>(p.x.x) + k;
#pragma unroll 4
      for (int64_t i = 0; i < m; ++i) sum = FusedMultiplyAdd(LoadReadOnly(x + i * p.matrix.k), LoadReadOnly(dz + i * p.matrix.n + output), sum);
    }
    gradient[at] = sum;
  });
}

Problem MakeProblem(const Matrix& matrix) {
  Problem p;
  p.matrix = matrix;
  p.extent = XExtent(matrix);
  p.last_window = matrix.k == 0 ? 0 : NumWindows(matrix.values_type, matrix.k) - 1;
  return p;
}

template <Values kValues>
std::string LaunchColumns(const Problem& p, const CudaDevice& device, void* stream) {
  const ColumnsPlan plan = PlanColumns(p.matrix, p.x.m, device);
  return LaunchKernel("sparse product, many rows", ColumnsKernel<kValues>, plan.row_tiles * plan.panel_groups, plan.warps * 32, ColumnsSharedBytes(p.matrix.reach),
                      stream, p, plan.warps, plan.row_tiles);
}

template <Values kValues>
std::string LaunchGather(const Problem& p, void* stream) {
  using Kernel = void (*)(Problem, int64_t);
  struct Variant {
    int rows;
    bool shared;
    Kernel kernel;
  };
  constexpr Variant kVariants[] = {{1, true, GatherKernel<kValues, 1, true>}, {2, true, GatherKernel<kValues, 2, true>},
                                   {4, true, GatherKernel<kValues, 4, true>}, {8, true, GatherKernel<kValues, 8, true>},
                                   {1, false, GatherKernel<kValues, 1, false>}, {2, false, GatherKernel<kValues, 2, false>}};
  const GatherPlan plan = PlanGather(p.matrix, p.x.m);
  const int64_t shared_bytes = (plan.shared ? p.extent * plan.rows * 4 : 0) + int64_t{kGatherWarps} * plan.rows * kLanes * 4;
  for (const Variant& v : kVariants) {
    if (v.rows != plan.rows || v.shared != plan.shared) continue;
    return LaunchKernel("sparse product, few rows", v.kernel, NumPanels(p.matrix.n) * plan.row_parts, kGatherThreads, shared_bytes, stream, p, plan.row_parts);
  }
  return "sparse product: no kernel for " + std::to_string(plan.rows) + " rows";
}

}  // namespace

std::string CudaMatMul(const CudaMatMulArgs& args, void* workspace, const CudaDevice& device, void* stream) {
  return CudaMatMulBy(PlanProduct(args, device), args, workspace, device, stream);
}

std::string CudaMatMulBy(const ProductPlan& plan, const CudaMatMulArgs& args, void* workspace, const CudaDevice& device, void* stream) {
  const MatMulArgs& a = args.matmul;
  if (a.m == 0 || a.matrix.n == 0) return "";
  Problem p = MakeProblem(a.matrix);
  p.x = MakeCudaRows(a.x, a.x_type, a.m, a.matrix.k, a.x_stride);
  p.epilogue = {a.scale, nullptr, a.bias, a.activation, a.y, a.y_type, a.y_stride, a.matrix.n, false, false};
  const CudaWorkspace layout = LayOutWorkspace(args, plan);
  char* const memory = static_cast<char*>(workspace);
  p.x_q = reinterpret_cast<uint8_t*>(memory + layout.rows);
  p.x_q_stride = layout.rows_stride;
  if (layout.partial_stride != 0) p.partial_sums = memory + layout.partial_sums;
  p.partial_stride = layout.partial_stride;
  if (a.matrix.values_type == Values::kInt8) {
    auto* row_scales = reinterpret_cast<RowScale*>(memory + layout.row_scales);
    p.row_scales = row_scales;
    const float* x_scale = a.activations == Activations::kStatic ? args.x_scale : nullptr;
    const std::string error = LaunchQuantizeRows(p.x, x_scale, p.x_q, p.x_q_stride, row_scales, a.row_scale, stream);
    if (!error.empty()) return error;
  }
  if (plan.product == Product::kTensor) return LaunchTensor(p, plan.tensor, device, stream);
  const bool gather = plan.product == Product::kGather;
  switch (a.matrix.values_type) {
    case Values::kFloat32:
      return gather ? LaunchGather<Values::kFloat32>(p, stream) : LaunchColumns<Values::kFloat32>(p, device, stream);
    case Values::kBFloat16:
      return gather ? LaunchGather<Values::kBFloat16>(p, stream) : LaunchColumns<Values::kBFloat16>(p, device, stream);
    default:
      return gather ? LaunchGather<Values::kInt8>(p, stream) : LaunchColumns<Values::kInt8>(p, device, stream);
  }
}

std::string CudaDequantize(const Matrix& matrix, const float* scale, float* weights, void* stream) {
  const int64_t count = matrix.k * matrix.n;
  if (count == 0) return "";
  Problem p = MakeProblem(matrix);
  p.epilogue.scale = scale;
  const std::string error = LaunchKernel("sparse zeros", ZeroKernel, DivideUp(count, kPanelThreads), kPanelThreads, 0, stream, weights, count);
  if (!error.empty()) return error;
  const auto kernel = matrix.values_type == Values::kFloat32    ? UnpackKernel<Values::kFloat32>
                      : matrix.values_type == Values::kBFloat16 ? UnpackKernel<Values::kBFloat16>
                                                                : UnpackKernel<Values::kInt8>;
  return LaunchKernel("sparse unpacking", kernel, NumPanels(matrix.n), kPanelThreads, 0, stream, p, weights);
}

std::string CudaValuesGradient(const Matrix& matrix, const float* x, const float* dz, int64_t m, float* gradient, void* stream) {
  if (matrix.n == 0 || matrix.steps == 0) return "";
  Problem p = MakeProblem(matrix);
  p.x = MakeCudaRows(x, ElementType::kFloat32, m, matrix.k, matrix.k);
  return LaunchKernel("sparse gradient of the values", ValuesGradientKernel, NumPanels(matrix.n) * kGradientParts, kPanelThreads, 0, stream, p, dz, m,
                      gradient);
}

}  // namespace tfcompress::sparse
