// Picks kernels, tiles and splits for a GPU, and lays out the workspace. Host code that needs no CUDA: its tests run anywhere.
#include <algorithm>

#include "base/quantize.h"
#include "formats/binary/cuda.h"

namespace tfcompress::binary {
namespace {

// Bytes that the GEMV holds in shared memory of a row's part of a word (of a word, but for floats).
int64_t PartBytes(const MatMulArgs& args) {
  if (args.activations == Activations::kFloat) return kGemvFloatDepth * 4;
  return args.activations == Activations::kBinary ? 4 : kWordBits / BitsOf(args.levels);
}

int64_t NumParts(const MatMulArgs& args) {
  const int64_t words = NumWords(args.levels, args.k);
  return args.activations == Activations::kFloat ? words * (kWordBits / BitsOf(args.levels) / kGemvFloatDepth) : words;
}

}  // namespace

std::string CheckCudaMatMul(const MatMulArgs& args) {
  const std::string error = CheckMatMul(args);
  if (!error.empty()) return error;
  if (reinterpret_cast<uintptr_t>(args.kernel) % 16 != 0) {
    return "kernel must be 16-byte aligned in GPU memory, as whole tensors are; received address " +
           std::to_string(reinterpret_cast<uintptr_t>(args.kernel)) + ". Copy the slice with tf.identity";
  }
  return "";
}

bool UsesGemv(const MatMulArgs& args, const CudaDevice& device) {
  if (args.m > kGemvRows) return false;
  if (args.activations == Activations::kFloat) return true;
  if (NumParts(args) * GemvRows(args.m) * PartBytes(args) > kGemvXBytes) return false;
  return args.m <= kGemvStreamRows[static_cast<int>(args.activations)] ||
         PackedBytes(args.levels, args.k, args.n) <= kGemvSmallBytesPerMultiprocessor * device.multiprocessors;
}

GemvPlan PlanGemv(const MatMulArgs& args, const CudaDevice& device) {
  GemvPlan plan;
  for (const int columns : kGemvColumns) {
    if (args.y_signs != nullptr && columns < kGemvSignsColumns) break;
    plan.columns = columns;
    plan.blocks = DivideUp(args.n, columns);
    if (plan.blocks >= int64_t{kGemvBlocksPerMultiprocessor} * device.multiprocessors) break;
  }
  plan.chunk = static_cast<int>(std::min(NumParts(args), kGemvXBytes / (GemvRows(args.m) * PartBytes(args))));
  return plan;
}

int64_t GemvSharedBytes(const MatMulArgs& args, const GemvPlan& plan) {
  const int64_t rows = GemvRows(args.m);
  const int64_t x = RoundUp(plan.chunk * rows * PartBytes(args), 16);
  constexpr int64_t kWarps = kGemvThreads / 32;
  return x + kWarps * rows * plan.columns * 4 + kWarps * rows * 4 + rows * static_cast<int64_t>(sizeof(RowScale));
}

const GemmTable& TableOf(const MatMulArgs& args, const CudaDevice& device) {
  const bool signs = args.activations == Activations::kBinary && CountsBits(device);
  return signs ? kSignsTable : kBytesTables[static_cast<int>(args.levels)];
}

int64_t GemmStagesOf(const MatMulArgs& args, const GemmTable& table) { return DivideUp(NumWords(args.levels, args.k), table.words); }

CudaWorkspace LayOutWorkspace(const MatMulArgs& args, const CudaDevice& device) {
  CudaWorkspace w;
  if (UsesGemv(args, device)) return w;
  const bool floats = args.activations == Activations::kFloat;
  int64_t splits;
  if (floats) {
    splits = PlanFloat(args.m, args.k, args.n, device).splits;
  } else {
    const GemmTable& table = TableOf(args, device);
    const int64_t stages = GemmStagesOf(args, table);
    splits = PlanGemm(table, args.m, stages, args.n, device).splits;
    w.bytes = RoundUp(args.m * static_cast<int64_t>(sizeof(RowScale)), 128);
    if (args.activations == Activations::kBinary) {
      w.signs = w.bytes;
      w.signs_stride = RoundUp(SignWords(args.k) * 4, kStageXBytes);
      w.bytes += RoundUp(args.m * w.signs_stride, 128);
    }
    if (&table != &kSignsTable) {
      w.x_bytes = w.bytes;
      w.bytes_stride = stages * kStageXBytes;
      w.bytes += RoundUp(args.m * w.bytes_stride, 128);
    }
  }
  if (splits == 1) return w;
  w.partial_sums = w.bytes;
  // Whole words of signs, so that eight lanes have one of a row.
  w.partial_stride = floats ? RoundUp(args.n, 4) + 4 : RoundUp(args.n, kWordBits);
  w.bytes += splits * args.m * w.partial_stride * 4;
  return w;
}

int64_t CudaWorkspaceBytes(const MatMulArgs& args, const CudaDevice& device) {
  return args.m == 0 || args.n == 0 ? 0 : LayOutWorkspace(args, device).bytes;
}

}  // namespace tfcompress::binary
