// Packs, unpacks and quantises weights. Runs once a model, so it is plain code, but written for memory: rows are read in order and
// a panel's 64 columns are handled at a time.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "formats/int8/int8.h"

namespace tfcompress::int8 {
namespace {

// Calls f(first output, valid outputs, width, bytes of the panel) for each panel.
template <typename Bytes, typename F>
void ForEachPanel(Bytes* packed, int64_t k, int64_t n, const F& f) {
  const int64_t k4 = RoundUp(k, kGroup);
  for (int64_t n0 = 0; n0 < n; n0 += kPanelWidth) {
    const int64_t valid = std::min(kPanelWidth, n - n0);
    f(n0, valid, RoundUp(valid, kPanelQuantum), packed + n0 * k4);
  }
}

// Four rows of weights become one row of groups. `row(k)` gives 64 quantised values of row k of this panel.
template <typename RowOf>
void PackPanel(int64_t k, int64_t valid, int64_t width, const RowOf& row, uint8_t* panel) {
  int8_t rows[kGroup][kPanelWidth];
  for (int64_t k0 = 0; k0 < k; k0 += kGroup) {
    std::memset(rows, 0, sizeof(rows));
    for (int64_t j = 0; j < kGroup && k0 + j < k; ++j) row(k0 + j, valid, rows[j]);
    for (int64_t c = 0; c < width; ++c) {
      for (int64_t j = 0; j < kGroup; ++j) panel[c * kGroup + j] = static_cast<uint8_t>(rows[j][c] + kZeroPoint);
    }
    panel += width * kGroup;
  }
}

// 1.5 * 2^23 rounds to the nearest integer, ties to even, where |x| < 2^22.
float RoundToEven(float x) { return (x + 12582912.0f) - 12582912.0f; }

}  // namespace

void Pack(const int8_t* weights, int64_t k, int64_t n, uint8_t* packed) {
  ForEachPanel(packed, k, n, [&](int64_t n0, int64_t valid, int64_t width, uint8_t* panel) {
    const auto row = [&](int64_t i, int64_t count, int8_t* to) {
      std::memcpy(to, weights + i * n + n0, static_cast<size_t>(count));
    };
    PackPanel(k, valid, width, row, panel);
  });
}

void Unpack(const uint8_t* packed, int64_t k, int64_t n, int8_t* weights) {
  ForEachPanel(packed, k, n, [&](int64_t n0, int64_t valid, int64_t width, const uint8_t* panel) {
    for (int64_t i = 0; i < k; ++i) {
      const uint8_t* group = panel + i / kGroup * width * kGroup + i % kGroup;
      int8_t* row = weights + i * n + n0;
      for (int64_t c = 0; c < valid; ++c) row[c] = static_cast<int8_t>(group[c * kGroup] - kZeroPoint);
    }
  });
}

bool QuantizeAndPack(const float* weights, int64_t k, int64_t n, uint8_t* packed, float* scale, float* mean) {
  std::vector<double> sum;
  if (mean != nullptr) {
    sum.assign(static_cast<size_t>(n), 0.0);
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < n; ++j) sum[j] += weights[i * n + j];
    }
    for (int64_t j = 0; j < n; ++j) mean[j] = k == 0 ? 0.0f : static_cast<float>(sum[j] / static_cast<double>(k));
  }
  std::fill(scale, scale + n, 0.0f);
  // A NaN compares false with everything: it is found through a sum that it poisons, as an infinity does (inf - inf, or inf itself).
  std::vector<float> poison(static_cast<size_t>(n), 0.0f);
  for (int64_t i = 0; i < k; ++i) {
    const float* row = weights + i * n;
    for (int64_t j = 0; j < n; ++j) {
      const float w = mean != nullptr ? row[j] - mean[j] : row[j];
      const float a = std::fabs(w);
      scale[j] = a > scale[j] ? a : scale[j];
      poison[j] += w * 0.0f;
    }
  }
  std::vector<float> inverse(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j) {
    if (!(poison[j] == 0.0f)) return false;
    inverse[j] = scale[j] > 0.0f ? 127.0f / scale[j] : 0.0f;
    scale[j] /= 127.0f;
    // Columns so small that 127 / max |w| overflows, or the scale is denormal, count as zero.
    if (!(scale[j] >= 0x1p-126f)) scale[j] = inverse[j] = 0.0f;
  }
  ForEachPanel(packed, k, n, [&](int64_t n0, int64_t valid, int64_t width, uint8_t* panel) {
    const auto row = [&](int64_t i, int64_t count, int8_t* to) {
      const float* w = weights + i * n + n0;
      for (int64_t c = 0; c < count; ++c) {
        const float centred = mean != nullptr ? w[c] - mean[n0 + c] : w[c];
        to[c] = static_cast<int8_t>(static_cast<int32_t>(RoundToEven(centred * inverse[n0 + c])));
      }
    };
    PackPanel(k, valid, width, row, panel);
  });
  return true;
}

void Dequantize(const uint8_t* packed, int64_t k, int64_t n, const float* scale, const float* mean, float* weights,
                ThreadPool* pool) {
  const int64_t k4 = RoundUp(k, kGroup);
  const int64_t panels = NumPanels(n);
  pool->Run(1, panels, [&](int64_t, int64_t p, int) {
    const int64_t n0 = p * kPanelWidth;
    const int64_t valid = std::min(kPanelWidth, n - n0);
    const int64_t width = RoundUp(valid, kPanelQuantum);
    const uint8_t* panel = packed + n0 * k4;
    for (int64_t i = 0; i < k; ++i) {
      const uint8_t* group = panel + i / kGroup * width * kGroup + i % kGroup;
      float* row = weights + i * n + n0;
      for (int64_t c = 0; c < valid; ++c) {
        const float w = scale[n0 + c] * static_cast<float>(group[c * kGroup] - kZeroPoint);
        row[c] = mean != nullptr ? w + mean[n0 + c] : w;
      }
    }
  });
}

}  // namespace tfcompress::int8
