// What sparse_test.cc and sparse_fuzz.cc share: packed arrays in blocks of exactly their size, and running one kernel.
#ifndef TFCOMPRESS_TESTS_CSRC_SPARSE_TESTING_H_
#define TFCOMPRESS_TESTS_CSRC_SPARSE_TESTING_H_

#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "formats/sparse/kernels.h"
#include "testing.h"

namespace tfcompress::sparse {

// Mutated matrices, `mutations` in all over the tiers: what CheckMatrix accepts is used in every way there is.
void Fuzz(int mutations, uint64_t seed);

// Values and how far a step reaches.
struct Flavour {
  Values values;
  int64_t reach;
};
inline constexpr Flavour kFlavours[] = {
    {Values::kFloat32, 64}, {Values::kBFloat16, 64}, {Values::kInt8, 64}, {Values::kInt8, 128}};

// A packed matrix, each array in a block of its own.
struct Arrays {
  Matrix View() const {
    Matrix matrix;
    matrix.values_type = flavour.values;
    matrix.reach = flavour.reach;
    matrix.k = k;
    matrix.n = n;
    matrix.steps = static_cast<int64_t>(windows.size());
    matrix.windows = windows.data();
    matrix.indices = indices.data();
    matrix.values = values.data();
    matrix.panels = panels.data();
    matrix.order = order.data();
    return matrix;
  }

  Flavour flavour;
  int64_t k, n;
  std::vector<uint16_t> windows;
  std::vector<uint8_t> indices;
  std::vector<char> values;
  std::vector<int32_t> panels, order;
};

inline Arrays PackArrays(const void* weights, const Flavour& flavour, int64_t k, int64_t n) {
  const Packed packed = Pack(weights, flavour.values, flavour.reach, k, n, /*least_saved=*/0);
  return {flavour, k, n, packed.windows, packed.indices, packed.values, packed.panels, packed.order};  // copies have no spare capacity
}

// The arrays in one block, as ops take them.
inline std::vector<uint8_t> StructureOf(const Arrays& arrays) {
  const Packed packed = {arrays.windows, arrays.indices, arrays.values, arrays.panels, arrays.order, static_cast<int32_t>(arrays.k)};
  return std::vector<uint8_t>(packed.Structure());
}

// Computes the blocks with one kernel and one worker's scratch memory, which it finds as the last block left it.
inline void Compute(const Kernels& kernels, Kind kind, const MatMulArgs& args, const std::vector<Block>& blocks) {
  const auto v = static_cast<int>(args.matrix.values_type);
  int64_t rows = 0;
  for (const Block& block : blocks) rows = std::max(rows, block.row_end - block.row_begin);
  if (rows == 0) return;
  testing::Scratch scratch(kind == Kind::kRows ? RowsScratchBytes(args.matrix, kernels.rows_x_bytes[v], std::min(rows, kRowsHeld))
                                               : ColumnsScratchBytes(args.matrix, std::min(rows, kColumnsHeld)));
  new (scratch.data()) ScratchHeader;
  for (const Block& block : blocks) {
    if (block.row_begin == block.row_end || block.panel_begin == block.panel_end) continue;
    (kind == Kind::kRows ? kernels.rows : kernels.columns)[v](args, block, scratch.data());
  }
}

}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_TESTS_CSRC_SPARSE_TESTING_H_
