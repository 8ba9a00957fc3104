// The launchers of weights of one and two bits on CUDA: what runs for which arguments, and the small kernels beside the products.
#include "formats/binary/cuda_kernels.cuh"

namespace tfcompress::binary {
namespace {

constexpr int kUnpackThreads = 128;

// A thread for one word of one output. Neighbours take neighbouring outputs: words are read and rows written whole lines at a time.
template <Levels levels>
TFCOMPRESS_GLOBAL(kUnpackThreads, 8)
UnpackKernel(CudaProblem p, float* weights) {
  constexpr int kDepth = Fields<levels>::kDepth;
  const int64_t i = BlockIndex() * kUnpackThreads + ThreadIndex();
  const int64_t at = i / p.n, column = i % p.n;
  if (at >= p.words) return;
  const WeightColumns columns = WeightColumnsAt(p, column);
  const uint32_t word = LoadReadOnly(reinterpret_cast<const uint32_t*>(columns.first + at * columns.step_bytes));
  const float scale = LoadReadOnly(p.epilogue.scale + column);
  const float mean = p.epilogue.mean != nullptr ? LoadReadOnly(p.epilogue.mean + column) : 0.0f;
  const int64_t left = p.k - at * kDepth;
  float* to = weights + at * kDepth * p.n + column;
#pragma unroll
  for (int j = 0; j < kDepth; ++j) {
    if (j >= left) return;
    const float w = scale * FloatLevels<levels>::Decode(word, j);
    *to = p.epilogue.mean != nullptr ? w + mean : w;
    to += p.n;
  }
}

constexpr int kSignsThreads = 128;
constexpr int kSignsWarps = kSignsThreads / 32;
constexpr int64_t kSignsSharedBytes = 2 * kSignsWarps * 4;

// A block for each row, a warp for a word.
TFCOMPRESS_GLOBAL(kSignsThreads, 8)
TakeSignsKernel(CudaProblem p, uint32_t* signs, int64_t stride, RowScale* row_scales) {
  uint32_t* of_warps = reinterpret_cast<uint32_t*>(SharedMemory());
  const int thread = ThreadIndex(), warp = thread / 32;
  const int64_t row = BlockIndex();
  uint32_t* const to = signs + row * stride;
  int32_t ones = 0;
  float magnitudes = 0.0f;
  if (p.x_signs != nullptr) {
    for (int64_t w = thread; w < stride; w += kSignsThreads) {
      uint32_t word = w < p.words ? LoadReadOnly(p.x_signs + row * p.words + w) : 0;
      if (w == p.words - 1) word &= p.last_word_mask;
      to[w] = word;
      ones += PopCount(word);
    }
    ones = static_cast<int32_t>(WarpSum(static_cast<uint32_t>(ones)));
  } else {
#pragma unroll 4
    for (int64_t w = warp; w < stride; w += kSignsWarps) {
      const uint32_t word = SignsWord(p, row, w, &magnitudes);
      if (thread % 32 == 0) to[w] = word;
      ones += PopCount(word);
    }
    magnitudes = WarpSumOfFloats(magnitudes);
  }
  if (thread % 32 == 0) {
    of_warps[warp] = static_cast<uint32_t>(ones);
    of_warps[kSignsWarps + warp] = BitCast<uint32_t>(magnitudes);
  }
  SyncThreads();
  if (thread != 0) return;
  ones = 0;
  magnitudes = 0.0f;
#pragma unroll
  for (int w = 0; w < kSignsWarps; ++w) {
    ones += static_cast<int32_t>(of_warps[w]);
    magnitudes += BitCast<float>(of_warps[kSignsWarps + w]);
  }
  const RowScale row_scale = SignsRowScale(p, ones, magnitudes);
  row_scales[row] = row_scale;
  if (p.row_scale_copy != nullptr) p.row_scale_copy[row] = row_scale.scale;
}

// A thread for a word of signs: 32 bytes, those of field f in word f.
TFCOMPRESS_GLOBAL(kSignsThreads, 8)
SignsToBytesKernel(CudaProblem p, const uint32_t* signs, int64_t signs_stride, uint8_t* bytes, int64_t bytes_stride) {
  using F = Fields<Levels::kBinary>;
  const int64_t across = bytes_stride / F::kDepth;
  const int64_t i = BlockIndex() * kSignsThreads + ThreadIndex();
  const int64_t row = i / across, at = i % across;
  if (row >= p.m) return;
  const uint32_t valid = at < p.words - 1 ? 0xffffffffu : at < p.words ? p.last_word_mask : 0;
  const uint32_t word = valid != 0 ? LoadReadOnly(signs + row * signs_stride + at) : 0;
  uint8_t* const to = bytes + row * bytes_stride + at * F::kDepth;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Words4 four;
#pragma unroll
    for (int f = 0; f < 4; ++f) {
      const uint32_t levels = word >> (4 * half + f) & F::kMask, exist = valid >> (4 * half + f) & F::kMask;
      four.v[f] = ~(levels * 0xfeu) & exist * 0xffu;  // bytes of 1: 0x01; of 0: 0xff, -1
    }
    StoreGlobal<4>(to + 16 * half, four);
  }
}

CudaProblem ProblemOf(Levels levels, const uint8_t* packed, int64_t k, int64_t n) {
  CudaProblem p;
  p.kernel = packed;
  p.k = k;
  p.n = n;
  p.words = NumWords(levels, k);
  p.last_word_mask = k % kWordBits == 0 ? 0xffffffffu : (1u << (k % kWordBits)) - 1;
  return p;
}

}  // namespace

CudaProblem MakeCudaProblem(const MatMulArgs& a) {
  CudaProblem p = ProblemOf(a.levels, a.kernel, a.k, a.n);
  p.x = MakeCudaRows(a.x, a.x_type, a.m, a.k, a.x_stride);
  p.m = a.m;
  p.x_signs = a.x_signs;
  p.scale_x = a.scale_x;
  p.y_signs = a.y_signs;
  p.threshold = a.threshold;
  p.row_scale_copy = a.row_scale;
  p.epilogue = {a.scale, a.mean, a.bias, a.activation, a.y, a.y_type, a.y_stride, a.n, RowsAligned(a.y, a.y_type, a.y_stride),
                VectorsAligned(a.scale, a.mean, a.bias)};
  return p;
}

std::string PrepareAndLaunchGemm(const MatMulArgs& a, const GemmTable& table, const GemmPlan& plan, void* workspace, const CudaDevice& device,
                                 void* stream) {
  const CudaWorkspace space = LayOutGemm(a, table, plan);
  const auto at = [&](int64_t offset) { return static_cast<char*>(workspace) + offset; };
  CudaProblem p = MakeCudaProblem(a);
  p.row_scales = reinterpret_cast<RowScale*>(at(space.row_scales));
  p.partial_sums = space.partial_stride > 0 ? at(space.partial_sums) : nullptr;
  p.partial_stride = space.partial_stride;
  uint8_t* const bytes = reinterpret_cast<uint8_t*>(at(space.x_bytes));
  std::string error;
  if (a.activations == Activations::kBinary) {
    uint32_t* const signs = reinterpret_cast<uint32_t*>(at(space.signs));
    error = LaunchKernel("signs of rows", TakeSignsKernel, p.m, kSignsThreads, kSignsSharedBytes, stream, p, signs, space.signs_stride / 4, p.row_scales);
    p.x_q = reinterpret_cast<uint8_t*>(signs);
    p.x_q_stride = space.signs_stride;
    const int64_t words = p.m * (space.bytes_stride / Fields<Levels::kBinary>::kDepth);
    if (error.empty() && words > 0) {
      error = LaunchKernel("signs as bytes", SignsToBytesKernel, (words + kSignsThreads - 1) / kSignsThreads, kSignsThreads, 0, stream, p, signs,
                           space.signs_stride / 4, bytes, space.bytes_stride);
    }
  } else {
    error = LaunchQuantizeRows(p.x, nullptr, bytes, space.bytes_stride, p.row_scales, p.row_scale_copy, stream, 8 / BitsOf(a.levels));
  }
  if (!error.empty()) return error;
  if (space.bytes_stride > 0) {
    p.x_q = bytes;
    p.x_q_stride = space.bytes_stride;
  }
  return LaunchGemm(p, table, plan, device, stream);
}

std::string CudaMatMul(const MatMulArgs& a, void* workspace, const CudaDevice& device, void* stream) {
  if (a.m == 0 || a.n == 0) return "";
  if (UsesGemv(a, device)) return LaunchGemv(MakeCudaProblem(a), a, PlanGemv(a, device), stream);
  if (a.activations != Activations::kFloat) {
    const GemmTable& table = TableOf(a, device);
    return PrepareAndLaunchGemm(a, table, PlanGemm(a, table, device), workspace, device, stream);
  }
  const CudaWorkspace space = LayOutWorkspace(a, device);
  CudaProblem p = MakeCudaProblem(a);
  p.partial_sums = space.partial_stride > 0 ? static_cast<char*>(workspace) + space.partial_sums : nullptr;
  p.partial_stride = space.partial_stride;
  return LaunchFloatGemm(p, a.levels, PlanFloat(a.m, a.k, a.n, device), stream);
}

std::string CudaDequantize(Levels levels, const uint8_t* packed, int64_t k, int64_t n, const float* scale, const float* mean, float* weights,
                           void* stream) {
  if (k == 0 || n == 0) return "";
  CudaProblem p = ProblemOf(levels, packed, k, n);
  p.epilogue.scale = scale;
  p.epilogue.mean = mean;
  const int64_t threads = p.words * n;
  const auto kernel = levels == Levels::kBinary ? UnpackKernel<Levels::kBinary> : UnpackKernel<Levels::kTernary>;
  return LaunchKernel("binary unpacking", kernel, (threads + kUnpackThreads - 1) / kUnpackThreads, kUnpackThreads, 0, stream, p, weights);
}

}  // namespace tfcompress::binary
