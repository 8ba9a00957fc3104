// Any CPU: plain C++.
#include "formats/sparse/matmul-inl.h"

namespace tfcompress::sparse {
namespace {

struct Lanes {
  float of[kLanes];
};

template <Values kStored, int kReach>
struct Rows {
  static constexpr Values kValues = kStored;
  using XElement = float;
  using Sum = float;
  using Acc = Lanes;
  struct Step {
    const uint8_t* indices;
    const char* values;
  };
  static constexpr int kRowTile = 1;
  static constexpr int kMostSets = 4;
  static constexpr bool kInterleaved = false;
  static constexpr int kHoldsFrom = kHoldsNone;
  static Acc Zero() { return {}; }
  static Acc Add(Acc a, const Acc& b) {
    for (int64_t l = 0; l < kLanes; ++l) a.of[l] += b.of[l];
    return a;
  }
  static Step LoadStep(const uint8_t* indices, const char* values) { return {indices, values}; }
  static float Value(const char* values, int64_t at) {
    if constexpr (kStored == Values::kFloat32) return reinterpret_cast<const float*>(values)[at];
    if constexpr (kStored == Values::kBFloat16) return FromBFloat16(reinterpret_cast<const uint16_t*>(values)[at]);
    return static_cast<float>(static_cast<int8_t>(values[at]));
  }
  static Acc Accumulate(Acc sum, const Step& step, const float* x, int64_t) {
    constexpr int64_t kEntries = Entries(kStored);
    for (int64_t at = 0; at < kLanes * kEntries; ++at) {
      sum.of[at / kEntries] += x[step.indices[at] & (kReach - 1)] * Value(step.values, at);
    }
    return sum;
  }
};

struct Columns {
  using V = float __attribute__((vector_size(16)));
  static constexpr int kWidth = 4;
  static constexpr int kChains = 8;
  template <Values kStored, int>
  using Weights = WeightsInMemory<Columns, kStored>;
  static V Zero() { return V{}; }
  static V Load(const float* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  }
  static void Store(float* p, V v) { __builtin_memcpy(p, &v, sizeof(v)); }
  static V BroadcastAt(const float* p) { return V{*p, *p, *p, *p}; }
  static V BroadcastBFloat16At(const uint16_t* p) {
    const float f = FromBFloat16(*p);
    return V{f, f, f, f};
  }
  static V Fma(V a, V b, V c) { return a * b + c; }
  static void AddToInts(int32_t* to, V v) {
    for (int i = 0; i < kWidth; ++i) {
      to[i] = static_cast<int32_t>(static_cast<uint32_t>(to[i]) + static_cast<uint32_t>(static_cast<int32_t>(v[i])));
    }
  }
  static void Transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    for (int i = 0; i < kWidth; ++i) {
      for (int j = 0; j < kWidth; ++j) to[j * to_stride + i] = from[i * from_stride + j];
    }
  }
};

}  // namespace

const Kernels& PortableKernels() {
  static constexpr Kernels kernels = {
      InspectStructure,
      {"scalar multiply-add", "scalar multiply-add", "scalar multiply-add"},
      "multiply-add over 32 rows of x, 4 at a time",
      {MultiplyRows<Rows<Values::kFloat32, 64>>, MultiplyRows<Rows<Values::kBFloat16, 64>>,
       MultiplyInt8Rows<Rows<Values::kInt8, 64>, Rows<Values::kInt8, 128>>},
      {MultiplyColumns<Columns, Values::kFloat32>, MultiplyColumns<Columns, Values::kBFloat16>, MultiplyColumns<Columns, Values::kInt8>},
      {4, 4, 4},
      {24.0, 24.0, 96.0},
      {120.0, 120.0, 500.0}};
  return kernels;
}

}  // namespace tfcompress::sparse
