// Packs, unpacks and quantises weights. Runs once a model, so it is plain code, but written for memory: rows are read in order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "formats/binary/binary.h"

namespace tfcompress::binary {
namespace {

// Little-endian on any machine.
void StoreWord(uint8_t* to, uint32_t word) {
  for (int b = 0; b < 4; ++b) to[b] = static_cast<uint8_t>(word >> (8 * b));
}
uint32_t LoadWord(const uint8_t* from) {
  uint32_t word = 0;
  for (int b = 0; b < 4; ++b) word |= static_cast<uint32_t>(from[b]) << (8 * b);
  return word;
}

// Calls f(first output, valid outputs, width, bytes of the panel) for each panel.
template <typename Bytes, typename F>
void ForEachPanel(Bytes* packed, Levels levels, int64_t k, int64_t n, const F& f) {
  const int64_t words = NumWords(levels, k);
  for (int64_t n0 = 0; n0 < n; n0 += kPanelWidth) {
    const int64_t valid = std::min(kPanelWidth, n - n0);
    f(n0, valid, RoundUp(valid, kPanelQuantum), packed + n0 * words * 4);
  }
}

// level(k, first output, outputs, to) writes the levels of a row of a panel.
template <typename LevelsOf>
void PackLevels(Levels levels, int64_t k, int64_t n, uint8_t* packed, const LevelsOf& level) {
  const int bits = BitsOf(levels);
  const int64_t depth = kWordBits / bits;
  ForEachPanel(packed, levels, k, n, [&](int64_t n0, int64_t valid, int64_t width, uint8_t* panel) {
    for (int64_t k0 = 0; k0 < k; k0 += depth, panel += width * 4) {
      uint32_t words[kPanelWidth] = {};
      uint32_t row[kPanelWidth];
      for (int64_t i = 0; i < std::min(depth, k - k0); ++i) {
        level(k0 + i, n0, valid, row);
        for (int64_t c = 0; c < valid; ++c) words[c] |= (row[c] & ((1u << bits) - 1)) << (i * bits);
      }
      for (int64_t c = 0; c < width; ++c) StoreWord(panel + c * 4, words[c]);
    }
  });
}

// weight(row of a panel's levels as -1, 0, +1 or +2, k, first output, outputs)
template <typename F>
void UnpackPanel(Levels levels, int64_t k, int64_t n0, int64_t valid, int64_t width, const uint8_t* panel, const F& weights) {
  const int bits = BitsOf(levels);
  const int64_t depth = kWordBits / bits;
  int32_t row[kPanelWidth];
  for (int64_t i = 0; i < k; ++i) {
    const uint8_t* words = panel + i / depth * width * 4;
    for (int64_t c = 0; c < valid; ++c) {
      const auto level = static_cast<int32_t>(LoadWord(words + c * 4) >> (i % depth * bits) & ((1u << bits) - 1));
      row[c] = levels == Levels::kBinary ? 2 * level - 1 : level - 1;
    }
    weights(row, i, n0, valid);
  }
}

// sum[j] of f(w[i, j]) over the rows.
template <typename F>
std::vector<double> ColumnSums(const float* weights, int64_t k, int64_t n, const F& f) {
  std::vector<double> sums(static_cast<size_t>(n), 0.0);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < n; ++j) sums[j] += f(weights[i * n + j], j);
  }
  return sums;
}

}  // namespace

void Pack(Levels levels, const int8_t* weights, int64_t k, int64_t n, uint8_t* packed) {
  PackLevels(levels, k, n, packed, [&](int64_t i, int64_t n0, int64_t valid, uint32_t* row) {
    const int8_t* w = weights + i * n + n0;
    const int shift = levels == Levels::kBinary ? 1 : 0;
    for (int64_t c = 0; c < valid; ++c) row[c] = static_cast<uint32_t>((w[c] + 1) >> shift);
  });
}

void Unpack(Levels levels, const uint8_t* packed, int64_t k, int64_t n, int8_t* weights) {
  ForEachPanel(packed, levels, k, n, [&](int64_t n0, int64_t valid, int64_t width, const uint8_t* panel) {
    UnpackPanel(levels, k, n0, valid, width, panel, [&](const int32_t* row, int64_t i, int64_t first, int64_t count) {
      for (int64_t c = 0; c < count; ++c) weights[i * n + first + c] = static_cast<int8_t>(row[c]);
    });
  });
}

bool QuantizeAndPack(Rule rule, const float* weights, int64_t k, int64_t n, uint8_t* packed, float* scale, float* mean) {
  const auto rows = static_cast<double>(std::max<int64_t>(k, 1));
  if (mean != nullptr) {
    const std::vector<double> sums = ColumnSums(weights, k, n, [](float w, int64_t) { return w; });
    for (int64_t j = 0; j < n; ++j) mean[j] = static_cast<float>(sums[j] / rows);
  }
  const auto centred = [&](float w, int64_t j) { return mean != nullptr ? w - mean[j] : w; };
  const std::vector<double> magnitudes = ColumnSums(weights, k, n, [&](float w, int64_t j) { return std::fabs(centred(w, j)); });
  // A NaN or an infinity shows in the sum; finite floats cannot overflow it.
  for (double sum : magnitudes) {
    if (!(sum <= 1e300)) return false;
  }
  if (rule == Rule::kSign) {
    for (int64_t j = 0; j < n; ++j) scale[j] = static_cast<float>(magnitudes[j] / rows);
    PackLevels(Levels::kBinary, k, n, packed, [&](int64_t i, int64_t n0, int64_t valid, uint32_t* row) {
      const float* w = weights + i * n + n0;
      for (int64_t c = 0; c < valid; ++c) row[c] = centred(w[c], n0 + c) >= 0.0f ? 1 : 0;
    });
    return true;
  }
  // Ternary: +-1 where |w| > bound.
  std::vector<float> bound(static_cast<size_t>(n));
  if (rule == Rule::kTwn) {
    for (int64_t j = 0; j < n; ++j) bound[j] = static_cast<float>(0.7 * (magnitudes[j] / rows));
    std::vector<double> counts(static_cast<size_t>(n), 0.0);
    const std::vector<double> kept = ColumnSums(weights, k, n, [&](float w, int64_t j) {
      const bool keep = std::fabs(w) > bound[j];
      counts[j] += keep;
      return keep ? std::fabs(w) : 0.0;
    });
    for (int64_t j = 0; j < n; ++j) scale[j] = static_cast<float>(kept[j] / std::max(counts[j], 1.0));
  } else {
    double total = 0;
    for (double sum : magnitudes) total += sum;
    const auto gamma = static_cast<float>(total / (rows * static_cast<double>(std::max<int64_t>(n, 1))));
    std::fill(scale, scale + n, gamma);
    std::fill(bound.begin(), bound.end(), 0.5f * gamma);  // half rounds to even, to 0
  }
  PackLevels(Levels::kTernary, k, n, packed, [&](int64_t i, int64_t n0, int64_t valid, uint32_t* row) {
    const float* w = weights + i * n + n0;
    for (int64_t c = 0; c < valid; ++c) row[c] = w[c] > bound[n0 + c] ? 2 : w[c] < -bound[n0 + c] ? 0 : 1;
  });
  return true;
}

void Dequantize(Levels levels, const uint8_t* packed, int64_t k, int64_t n, const float* scale, const float* mean, float* weights,
                ThreadPool* pool) {
  const int64_t words = NumWords(levels, k);
  pool->Run(1, NumPanels(n), [&](int64_t, int64_t p, int) {
    const int64_t n0 = p * kPanelWidth;
    const int64_t valid = std::min(kPanelWidth, n - n0);
    const auto store = [&](const int32_t* row, int64_t i, int64_t first, int64_t count) {
      for (int64_t c = 0; c < count; ++c) {
        const float w = scale[first + c] * static_cast<float>(row[c]);
        weights[i * n + first + c] = mean != nullptr ? w + mean[first + c] : w;
      }
    };
    UnpackPanel(levels, k, n0, valid, RoundUp(valid, kPanelQuantum), packed + n0 * words * 4, store);
  });
}

}  // namespace tfcompress::binary
