// Rows of a table of int8 numbers on CUDA: bound by the memory that rows are read from and written to.
#include "base/cuda_epilogue.cuh"
#include "formats/int8/cuda.h"

namespace tfcompress::int8 {
namespace {

constexpr int kLookUpThreads = 256;

// A thread for four numbers of a row; neighbours have neighbouring ones. `whole_words`: the four are one load.
TFCOMPRESS_GLOBAL(kLookUpThreads, 4)
LookUpKernel(LookupArgs args, CudaEpilogue epilogue, bool whole_words) {
  const int64_t i = BlockIndex() * kLookUpThreads + ThreadIndex();
  const int64_t fours = (args.k + 3) / 4;
  const int64_t place = i / fours, column = 4 * (i % fours);
  if (place >= args.count) return;
  const int64_t r = args.wide ? LoadReadOnly(static_cast<const int64_t*>(args.indices) + place) : LoadReadOnly(static_cast<const int32_t*>(args.indices) + place);
  float v[4] = {};
  if (r >= 0 && r < args.n) {
    const int8_t* row = args.rows + r * args.k + column;
    const float scale = LoadReadOnly(args.scale + r);
    const float offset = args.mean != nullptr ? LoadReadOnly(args.mean + r) : -0.0f;
    const uint32_t word = whole_words ? LoadReadOnly(reinterpret_cast<const uint32_t*>(row)) : 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int8_t q = static_cast<int8_t>(word >> (8 * j) & 0xffu);
      if (!whole_words && column + j < args.k) q = LoadReadOnly(row + j);
      v[j] = scale * static_cast<float>(q) + offset;
    }
  }
  if (args.y_type == ElementType::kFloat32) return StoreFour(epilogue, place, column, v);
  uint16_t h[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) h[j] = args.y_type == ElementType::kBFloat16 ? ToBFloat16(v[j]) : ToFloat16(v[j]);
  StoreFour(epilogue, place, column, h);
}

}  // namespace

std::string CudaLookUp(const LookupArgs& args, void* stream) {
  if (args.count == 0 || args.k == 0) return "";
  CudaEpilogue epilogue;
  epilogue.y = args.y;
  epilogue.y_type = args.y_type;
  epilogue.y_stride = epilogue.n = args.k;
  epilogue.y_aligned = RowsAligned(args.y, args.y_type, args.k);
  const bool whole_words = args.k % 4 == 0 && reinterpret_cast<uintptr_t>(args.rows) % 4 == 0;
  const int64_t threads = args.count * ((args.k + 3) / 4);
  return LaunchKernel("int8 look-up", LookUpKernel, (threads + kLookUpThreads - 1) / kLookUpThreads, kLookUpThreads, 0, stream, args, epilogue,
                      whole_words);
}

}  // namespace tfcompress::int8
