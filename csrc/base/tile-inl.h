// What bodies that multiply in tiles share. See base/elementwise-inl.h for why everything has internal linkage.
#ifndef TFCOMPRESS_BASE_TILE_INL_H_
#define TFCOMPRESS_BASE_TILE_INL_H_

#include <cstdint>

#include "base/types.h"

namespace tfcompress {
namespace {

// A compile-time index as an argument.
template <int kValue>
struct Index {
  static constexpr int value = kValue;
};

// Cuts `rows` into tiles of nearly equal height (16 rows: 6 + 5 + 5, not 6 + 6 + 4) and calls f(first row, height).
template <typename F>
TFCOMPRESS_INLINE void ForEachRowTile(int64_t rows, int64_t most, const F& f) {
  const int64_t tiles = (rows + most - 1) / most;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = rows * t / tiles;
    f(begin, rows * (t + 1) / tiles - begin);
  }
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_TILE_INL_H_
