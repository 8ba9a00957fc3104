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
    if (10 * plan.blocks >= int64_t{kGemvBlocksForTenMultiprocessors[static_cast<int>(args.activations)]} * device.multiprocessors) break;
  }
  plan.chunk = static_cast<int>(std::min(NumParts(args), kGemvXBytes / (GemvRows(args.m) * PartBytes(args))));
  return plan;
}

int64_t GemvSharedBytes(const MatMulArgs& args, const GemvPlan& plan) {
  const int64_t rows = GemvRows(args.m);
  const int64_t x = RoundUp(plan.chunk * rows * PartBytes(args), 16);
  constexpr int64_t kWarps = kGemvThreads / 32;
  constexpr int64_t kNumbers = 2;  // of a row and warp: set bits and magnitudes; the largest magnitude and the sum
  return x + kWarps * rows * plan.columns * 4 + kNumbers * kWarps * rows * 4 + rows * static_cast<int64_t>(sizeof(RowScale));
}

const GemmTable& TableOf(const MatMulArgs& args, const CudaDevice& device) {
  const bool signs = args.activations == Activations::kBinary && CountsBits(device);
  return signs ? kSignsTable : kBytesTables[static_cast<int>(args.levels)];
}

int64_t GemmStagesOf(const MatMulArgs& args, const GemmTable& table) { return DivideUp(NumWords(args.levels, args.k), table.words); }

GemmPlan PlanGemm(const MatMulArgs& args, const GemmTable& table, const CudaDevice& device) {
  return tfcompress::PlanGemm(table, args.m, GemmStagesOf(args, table), args.n, device);
}

CudaWorkspace LayOutGemm(const MatMulArgs& args, const GemmTable& table, const GemmPlan& plan) {
  CudaWorkspace w;
  w.bytes = RoundUp(args.m * static_cast<int64_t>(sizeof(RowScale)), 128);
  if (args.activations == Activations::kBinary) {
    w.signs = w.bytes;
    w.signs_stride = RoundUp(SignWords(args.k) * 4, kStageXBytes);
    w.bytes += RoundUp(args.m * w.signs_stride, 128);
  }
  if (&table != &kSignsTable) {
    w.x_bytes = w.bytes;
    w.bytes_stride = GemmStagesOf(args, table) * kStageXBytes;
    w.bytes += RoundUp(args.m * w.bytes_stride, 128);
  }
  if (plan.splits == 1) return w;
  w.partial_sums = w.bytes;
  w.partial_stride = RoundUp(args.n, kWordBits);  // whole words of signs: eight lanes have one of a row
  w.bytes += plan.splits * args.m * w.partial_stride * 4;
  return w;
}

CudaWorkspace LayOutWorkspace(const MatMulArgs& args, const CudaDevice& device) {
  if (UsesGemv(args, device)) return {};
  if (args.activations != Activations::kFloat) {
    const GemmTable& table = TableOf(args, device);
    return LayOutGemm(args, table, PlanGemm(args, table, device));
  }
  CudaWorkspace w;
  const int64_t splits = PlanFloat(args.m, args.k, args.n, device).splits;
  if (splits == 1) return w;
  w.partial_stride = RoundUp(args.n, 4) + 4;
  w.bytes = splits * args.m * w.partial_stride * 4;
  return w;
}

int64_t CudaWorkspaceBytes(const MatMulArgs& args, const CudaDevice& device) {
  return args.m == 0 || args.n == 0 ? 0 : LayOutWorkspace(args, device).bytes;
}

}  // namespace tfcompress::binary
