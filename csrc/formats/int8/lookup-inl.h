// The body of every look-up: plain loops, which compilers vectorise for the instruction set of the including file. Everything has internal
// linkage: see base/elementwise-inl.h.
#ifndef TFCOMPRESS_FORMATS_INT8_LOOKUP_INL_H_
#define TFCOMPRESS_FORMATS_INT8_LOOKUP_INL_H_

#include "base/elementwise-inl.h"
#include "formats/int8/lookup.h"

namespace tfcompress::int8 {
namespace {

// Rows that are fetched ahead: they lie anywhere, and no hardware prefetcher finds them.
constexpr int64_t kRowsAhead = 4;
// Numbers that are scaled before they are rounded to 16 bits: they stay in L1.
constexpr int64_t kChunk = 512;

// An offset of -0.0f changes no number, whatever its sign.
TFCOMPRESS_INLINE void ScaleRow(const int8_t* __restrict__ row, int64_t k, float scale, float offset, float* __restrict__ y) {
  for (int64_t j = 0; j < k; ++j) y[j] = scale * static_cast<float>(row[j]) + offset;
}

int64_t LookUpRowsHere(const LookupArgs& args, int64_t begin, int64_t end) {
  const int64_t k = args.k, row_bytes = k * ElementBytes(args.y_type);
  char* y = static_cast<char*>(args.y) + begin * row_bytes;
  for (int64_t i = begin; i < end; ++i, y += row_bytes) {
    const int64_t r = IndexAt(args, i);
    if (r < 0 || r >= args.n) return i;
    if (i + kRowsAhead < end) {
      const int64_t later = IndexAt(args, i + kRowsAhead);
      if (later >= 0 && later < args.n) {
        for (int64_t j = 0; j < k; j += 64) __builtin_prefetch(args.rows + later * k + j);
      }
    }
    const int8_t* row = args.rows + r * k;
    const float scale = args.scale[r], offset = args.mean != nullptr ? args.mean[r] : -0.0f;
    if (args.y_type == ElementType::kFloat32) {
      ScaleRow(row, k, scale, offset, reinterpret_cast<float*>(y));
      continue;
    }
    for (int64_t j = 0; j < k; j += kChunk) {
      alignas(64) float chunk[kChunk];
      const int64_t count = Min(kChunk, k - j);
      ScaleRow(row + j, count, scale, offset, chunk);
      StoreFromFloat(chunk, y + j * ElementBytes(args.y_type), args.y_type, count);
    }
  }
  return end;
}

}  // namespace
}  // namespace tfcompress::int8

#endif  // TFCOMPRESS_FORMATS_INT8_LOOKUP_INL_H_
