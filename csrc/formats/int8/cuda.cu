// The launchers of int8 on CUDA: what runs for which arguments, and the small kernels beside the products.
#include "formats/int8/cuda_kernels.cuh"

namespace tfcompress::int8 {
namespace {

constexpr int kUnpackThreads = 128;

// A thread for one word: four weights of one output. Neighbours take neighbouring outputs: words are read and rows written whole lines at a time.
TFCOMPRESS_GLOBAL(kUnpackThreads, 8)
UnpackKernel(CudaProblem p, float* weights) {
  const int64_t i = BlockIndex() * kUnpackThreads + ThreadIndex();
  const int64_t group = i / p.n, column = i % p.n;
  if (group >= p.words) return;
  const WeightColumns columns = WeightColumnsAt(p, column);
  const uint32_t word = LoadReadOnly(reinterpret_cast<const uint32_t*>(columns.first + group * columns.step_bytes));
  const float scale = LoadReadOnly(p.epilogue.scale + column);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t k = group * kGroup + j;
    if (k >= p.k) return;
    const float w = scale * Bytes::Decode(word, j);
    weights[k * p.n + column] = p.epilogue.mean != nullptr ? w + LoadReadOnly(p.epilogue.mean + column) : w;
  }
}

}  // namespace

CudaProblem MakeCudaProblem(const CudaMatMulArgs& args) {
  const MatMulArgs& a = args.matmul;
  CudaProblem p;
  p.x = MakeCudaRows(a.x, a.x_type, a.m, a.k, a.x_stride);
  p.x_scale = a.activations == Activations::kStatic ? args.x_scale : nullptr;
  p.kernel = a.kernel;
  p.m = a.m;
  p.k = a.k;
  p.n = a.n;
  p.words = RoundUp(a.k, kGroup) / kGroup;
  p.row_scale_copy = a.row_scale;
  p.epilogue = {a.scale, a.mean, a.bias, a.activation, a.y, a.y_type, a.y_stride, a.n, RowsAligned(a.y, a.y_type, a.y_stride),
                VectorsAligned(a.scale, a.mean, a.bias)};
  return p;
}

std::string CudaMatMul(const CudaMatMulArgs& args, void* workspace, const CudaDevice& device, void* stream) {
  const MatMulArgs& a = args.matmul;
  if (a.m == 0 || a.n == 0) return "";
  const bool integer = a.activations != Activations::kFloat;
  const CudaWorkspace space = LayOutWorkspace(args, device);
  const auto at = [&](int64_t offset) { return static_cast<char*>(workspace) + offset; };
  CudaProblem p = MakeCudaProblem(args);
  if (space.x > 0) {
    p.x_q = reinterpret_cast<uint8_t*>(at(space.x));
    p.x_q_stride = space.x_stride;
    p.row_scales = reinterpret_cast<RowScale*>(at(space.row_scales));
    const std::string error = LaunchQuantizeRows(p.x, p.x_scale, reinterpret_cast<uint8_t*>(at(space.x)), space.x_stride, p.row_scales,
                                                 p.row_scale_copy, stream);
    if (!error.empty()) return error;
    p.row_scale_copy = nullptr;
  }
  if (a.m <= kGemvRows) {
    const GemvPlan plan = PlanGemv(a, device);
    return LaunchGemv(p, plan, GemvSharedBytes(a, plan), integer, stream);
  }
  if (space.partial_stride > 0) {
    p.partial_sums = at(space.partial_sums);
    p.partial_stride = space.partial_stride;
  }
  return integer ? LaunchGemm(p, PlanGemm(kGemmTable, a.m, RoundUp(a.k, kGemmDepth) / kGemmDepth, a.n, device), device, stream) : LaunchFloatGemm(p, PlanFloat(a.m, a.k, a.n, device), stream);
}

std::string CudaDequantize(const uint8_t* packed, int64_t k, int64_t n, const float* scale, const float* mean, float* weights, void* stream) {
  if (k == 0 || n == 0) return "";
  CudaProblem p;
  p.kernel = packed;
  p.k = k;
  p.n = n;
  p.words = RoundUp(k, kGroup) / kGroup;
  p.epilogue.scale = scale;
  p.epilogue.mean = mean;
  const int64_t threads = p.words * n;
  return LaunchKernel("int8 unpacking", UnpackKernel, (threads + kUnpackThreads - 1) / kUnpackThreads, kUnpackThreads, 0, stream, p, weights);
}

}  // namespace tfcompress::int8
