// Packs, checks and unpacks. Runs once a model: plain code.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "formats/sparse/kernels.h"
#include "formats/sparse/sparse.h"

namespace tfcompress::sparse {
namespace {

constexpr uint32_t kNone = 0xffffffffu;


// The ascending k of one lane's nonzeros, and how many are packed.
struct Lane {
  std::vector<uint32_t> ks;
  size_t next = 0;
};

// Walks the steps of one panel: each begins at the first window that a lane still needs and takes, of every lane, as many of its next
// weights as there are places and as its reach allows. Calls step(window), then place(lane, entry, k) for each place that is filled.
template <typename Step, typename Place>
void ForEachStep(Lane (&lanes)[kLanes], Values values, int64_t reach, const Step& step, const Place& place) {
  const auto stride = static_cast<uint32_t>(Stride(values));
  const int64_t entries = Entries(values);
  for (;;) {
    uint32_t first = kNone;
    for (const Lane& lane : lanes) {
      if (lane.next < lane.ks.size()) first = std::min(first, lane.ks[lane.next]);
    }
    if (first == kNone) return;
    const uint32_t window = first / stride;
    const uint32_t end = window * stride + static_cast<uint32_t>(reach);
    step(window);
    for (int64_t l = 0; l < kLanes; ++l) {
      Lane& lane = lanes[l];
      for (int64_t e = 0; e < entries && lane.next < lane.ks.size() && lane.ks[lane.next] < end; ++e) {
        place(l, e, lane.ks[lane.next++]);
      }
    }
  }
}

template <typename T>
class Packer {
 public:
  Packer(const T* weights, Values values, int64_t reach, int64_t k, int64_t n)
      : weights_(weights), values_(values), reach_(reach), k_(k), n_(n) {}

  Packed Run(int64_t least_saved) {
    std::vector<int32_t> order(static_cast<size_t>(n_));
    std::iota(order.begin(), order.end(), 0);
    const int64_t steps = CountSteps(order);
    std::vector<int32_t> sorted = ByCount(order);
    if (sorted != order && steps - CountSteps(sorted) > least_saved * NumPanels(n_)) order = std::move(sorted);
    return Fill(order);
  }

 private:
  // The bits of a bfloat16 -0 are not 0.
  bool IsZero(T value) const { return values_ == Values::kBFloat16 ? (static_cast<uint32_t>(value) & 0x7fffu) == 0 : value == T(0); }

  // Outputs by their number of nonzeros, most first; stable.
  std::vector<int32_t> ByCount(const std::vector<int32_t>& order) const {
    std::vector<int64_t> count(static_cast<size_t>(n_), 0);
    for (int64_t i = 0; i < k_; ++i) {
      for (int64_t j = 0; j < n_; ++j) count[j] += !IsZero(weights_[i * n_ + j]);
    }
    std::vector<int32_t> sorted = order;
    std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) { return count[a] > count[b]; });
    return sorted;
  }

  void ReadPanel(const std::vector<int32_t>& order, int64_t panel, Lane (&lanes)[kLanes]) const {
    for (Lane& lane : lanes) {
      lane.ks.clear();
      lane.next = 0;
    }
    const int64_t count = std::min(kLanes, n_ - panel * kLanes);
    for (int64_t i = 0; i < k_; ++i) {
      const T* row = weights_ + i * n_;
      for (int64_t l = 0; l < count; ++l) {
        if (!IsZero(row[order[panel * kLanes + l]])) lanes[l].ks.push_back(static_cast<uint32_t>(i));
      }
    }
  }

  int64_t CountSteps(const std::vector<int32_t>& order) const {
    int64_t steps = 0;
    Lane lanes[kLanes];
    for (int64_t panel = 0; panel < NumPanels(n_); ++panel) {
      ReadPanel(order, panel, lanes);
      ForEachStep(lanes, values_, reach_, [&](uint32_t) { ++steps; }, [](int64_t, int64_t, uint32_t) {});
    }
    return steps;
  }

  Packed Fill(const std::vector<int32_t>& order) const {
    Packed packed;
    packed.order = order;
    packed.k = static_cast<int32_t>(k_);
    packed.panels.push_back(0);
    const int64_t entries = Entries(values_), step_entries = StepEntries(values_);
    Lane lanes[kLanes];
    for (int64_t panel = 0; panel < NumPanels(n_); ++panel) {
      ReadPanel(order, panel, lanes);
      const auto step = [&](uint32_t window) {
        packed.windows.push_back(static_cast<uint16_t>(window));
        packed.indices.resize(packed.indices.size() + static_cast<size_t>(step_entries), static_cast<uint8_t>(kPadding));
        packed.values.resize(packed.values.size() + static_cast<size_t>(step_entries) * sizeof(T), 0);
      };
      const auto place = [&](int64_t lane, int64_t entry, uint32_t k) {
        const auto at = (packed.windows.size() - 1) * static_cast<size_t>(step_entries) + static_cast<size_t>(lane * entries + entry);
        packed.indices[at] = static_cast<uint8_t>(k - packed.windows.back() * static_cast<uint32_t>(Stride(values_)));
        const T value = weights_[k * n_ + order[panel * kLanes + lane]];
        std::memcpy(packed.values.data() + at * sizeof(T), &value, sizeof(T));
      };
      ForEachStep(lanes, values_, reach_, step, place);
      packed.panels.push_back(static_cast<int32_t>(packed.windows.size()));
    }
    return packed;
  }

  const T* weights_;
  const Values values_;
  const int64_t reach_, k_, n_;
};

// Calls f(place in the arrays, k, n) for every stored weight of a panel.
template <typename F>
void ForEachWeight(const Matrix& matrix, int64_t panel, const F& f) {
  const int64_t entries = Entries(matrix.values_type), step_entries = StepEntries(matrix.values_type);
  const int64_t stride = Stride(matrix.values_type);
  const int64_t lanes = std::min(kLanes, matrix.n - panel * kLanes);
  for (int64_t s = matrix.panels[panel]; s < matrix.panels[panel + 1]; ++s) {
    const int64_t first = matrix.windows[s] * stride;
    for (int64_t at = s * step_entries; at < s * step_entries + lanes * entries; ++at) {
      if (matrix.indices[at] >= kPadding) continue;
      const int64_t k = first + (matrix.indices[at] & (matrix.reach - 1));
      if (k < matrix.k) f(at, k, matrix.order[panel * kLanes + (at - s * step_entries) / entries]);
    }
  }
}

float ValueAt(const Matrix& matrix, int64_t at) {
  switch (matrix.values_type) {
    case Values::kFloat32:
      return static_cast<const float*>(matrix.values)[at];
    case Values::kBFloat16: {
      const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(matrix.values)[at]) << 16;
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      return value;
    }
    default:
      return static_cast<float>(static_cast<const int8_t*>(matrix.values)[at]);
  }
}

template <typename T>
void UnpackAs(const Matrix& matrix, T* weights) {
  std::fill_n(weights, matrix.k * matrix.n, T(0));
  for (int64_t panel = 0; panel < NumPanels(matrix.n); ++panel) {
    ForEachWeight(matrix, panel, [&](int64_t at, int64_t k, int64_t n) {
      weights[k * matrix.n + n] = static_cast<const T*>(matrix.values)[at];
    });
  }
}

}  // namespace

std::vector<uint8_t> Packed::Structure() const {
  std::vector<uint8_t> structure;
  const auto append = [&](const auto& array) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(array.data());
    structure.insert(structure.end(), bytes, bytes + array.size() * sizeof(array[0]));
  };
  append(indices);
  append(panels);
  append(order);
  append(std::vector<int32_t>{k});
  append(windows);
  return structure;
}

bool PointInto(const uint8_t* structure, int64_t structure_bytes, Matrix* matrix) {
  Matrix& a = *matrix;
  a.n = OutFeatures(a.values_type, a.steps, structure_bytes);
  if (a.n < 0) return false;
  a.indices = structure;
  structure += a.steps * StepEntries(a.values_type);
  a.panels = reinterpret_cast<const int32_t*>(structure);
  a.order = a.panels + NumPanels(a.n) + 1;
  a.windows = reinterpret_cast<const uint16_t*>(a.order + a.n + 1);
  return true;
}

std::string SetStructure(const uint8_t* structure, int64_t structure_bytes, Matrix* matrix) {
  return PointInto(structure, structure_bytes, matrix) ? CheckInFeatures(*matrix) : StructureSizeError(matrix->steps, structure_bytes);
}

std::string CheckInFeatures(const Matrix& matrix) {
  const int64_t k = matrix.order[matrix.n];
  if (k == matrix.k) return "";
  return "in_features must be " + std::to_string(k) + ", as structure has it; received " + std::to_string(matrix.k);
}

std::string StructureSizeError(int64_t steps, int64_t structure_bytes) {
  return "structure must have a size that goes with " + std::to_string(steps) + " steps of values; received " + std::to_string(structure_bytes) +
         " bytes";
}

std::string CheckMatrix(Matrix* matrix) {
  const Matrix& a = *matrix;
  const auto size = [](int64_t value) { return std::to_string(value); };
  if (a.k < 0 || a.n < 0 || a.k > MostInFeatures(a.values_type)) {
    return "in_features must be from 0 to " + size(MostInFeatures(a.values_type)) + " and out_features >= 0; received " + size(a.k) + " and " +
           size(a.n);
  }
  if (a.reach != 64 && !(a.reach == 128 && a.values_type == Values::kInt8)) {
    return "reach must be 64, or with int8 values 128; received " + size(a.reach);
  }
  const Findings findings = KernelsFor(ActiveTier()).inspect(a);
  const int64_t num_panels = NumPanels(a.n);
  if (!findings.panels_ascend || a.panels[0] != 0 || a.panels[num_panels] != a.steps) {
    return "panels must ascend from 0 to the number of steps, " + size(a.steps) + "; received " + size(a.panels[0]) + " ... " +
           size(a.panels[num_panels]);
  }
  const int64_t windows = NumWindows(a.values_type, a.k);
  if (findings.last_window > std::max<int64_t>(windows - 1, 0)) {
    return "windows must be below " + size(windows) + " for in_features = " + size(a.k) + "; received " + size(findings.last_window);
  }
  if (a.k == 0 && a.steps != 0) return "there must be no steps where in_features is 0; received " + size(a.steps);
  matrix->in_order = findings.in_order;
  if (matrix->in_order) return "";
  std::vector<bool> seen(static_cast<size_t>(a.n), false);
  for (int64_t j = 0; j < a.n; ++j) {
    const int64_t output = a.order[j];
    if (output < 0 || output >= a.n || seen[static_cast<size_t>(output)]) {
      return "order must hold each output from 0 to " + size(a.n - 1) + " once; received " + size(output) + " at place " + size(j);
    }
    seen[static_cast<size_t>(output)] = true;
  }
  return "";
}

Packed Pack(const void* weights, Values values, int64_t reach, int64_t k, int64_t n, int64_t least_saved) {
  switch (values) {
    case Values::kFloat32:
      return Packer<float>(static_cast<const float*>(weights), values, reach, k, n).Run(least_saved);
    case Values::kBFloat16:
      return Packer<uint16_t>(static_cast<const uint16_t*>(weights), values, reach, k, n).Run(least_saved);
    default:
      return Packer<int8_t>(static_cast<const int8_t*>(weights), values, reach, k, n).Run(least_saved);
  }
}

void Unpack(const Matrix& matrix, void* weights) {
  switch (matrix.values_type) {
    case Values::kFloat32:
      return UnpackAs(matrix, static_cast<float*>(weights));
    case Values::kBFloat16:
      return UnpackAs(matrix, static_cast<uint16_t*>(weights));
    default:
      return UnpackAs(matrix, static_cast<int8_t*>(weights));
  }
}

void Dequantize(const Matrix& matrix, const float* scale, float* weights, ThreadPool* pool) {
  pool->Run(1, NumPanels(matrix.n), [&](int64_t, int64_t panel, int) {
    const int64_t lanes = std::min(kLanes, matrix.n - panel * kLanes);
    for (int64_t k = 0; k < matrix.k; ++k) {
      for (int64_t l = 0; l < lanes; ++l) weights[k * matrix.n + matrix.order[panel * kLanes + l]] = 0.0f;
    }
    ForEachWeight(matrix, panel, [&](int64_t at, int64_t k, int64_t n) {
      weights[k * matrix.n + n] = (scale != nullptr ? scale[n] : 1.0f) * ValueAt(matrix, at);
    });
  });
}

void ValuesGradient(const Matrix& matrix, const float* x, const float* dz, int64_t m, float* gradient, ThreadPool* pool) {
  // Rows in blocks, so that the columns of x and dz that a panel samples stay in the cache; sums of a block are added in float.
  constexpr int64_t kBlockRows = 64;
  const int64_t k = matrix.k;
  const int64_t blocks = std::max<int64_t>(1, DivideUp(m, kBlockRows));
  std::vector<float> xt(static_cast<size_t>(k * kBlockRows));
  std::fill_n(gradient, matrix.steps * StepEntries(matrix.values_type), 0.0f);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * kBlockRows, rows = std::min(kBlockRows, m - first);
    std::fill(xt.begin(), xt.end(), 0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < k; ++i) xt[static_cast<size_t>(i * kBlockRows + r)] = x[(first + r) * k + i];
    }
    pool->Run(1, NumPanels(matrix.n), [&](int64_t, int64_t panel, int) {
      float columns[kLanes][kBlockRows] = {};
      const int64_t lanes = std::min(kLanes, matrix.n - panel * kLanes);
      int64_t lane_of[kLanes];
      for (int64_t l = 0; l < lanes; ++l) {
        lane_of[l] = matrix.order[panel * kLanes + l];
        for (int64_t r = 0; r < rows; ++r) columns[l][r] = dz[(first + r) * matrix.n + lane_of[l]];
      }
      const int64_t entries = Entries(matrix.values_type), step_entries = StepEntries(matrix.values_type);
      ForEachWeight(matrix, panel, [&](int64_t at, int64_t i, int64_t) {
        const float* a = xt.data() + i * kBlockRows;
        const float* b = columns[at % step_entries / entries];
        float sums[16] = {};
        for (int64_t r = 0; r < kBlockRows; r += 16) {
          for (int64_t v = 0; v < 16; ++v) sums[v] += a[r + v] * b[r + v];
        }
        float total = 0.0f;
        for (const float sum : sums) total += sum;
        gradient[at] += total;
      });
    });
  }
}

}  // namespace tfcompress::sparse
