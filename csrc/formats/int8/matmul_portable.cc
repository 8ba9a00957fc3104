// Any CPU: plain C++, four multiply-adds a step. A "register" holds one output.
#include "formats/int8/matmul-inl.h"

namespace tfcompress::int8 {
namespace {

struct Integer {
  using V = int32_t;
  using XElement = int8_t;
  static constexpr int kOutputs = 1;
  static constexpr int kHalves = 1;
  static constexpr int kRowTile = 2;
  static constexpr int kOneRowSets = 1;
  static constexpr bool kWholeK = false;
  static constexpr int RegsFor(int) { return 16; }
  static V Zero() { return 0; }
  static V Load4(const void* bytes) {
    V v;
    __builtin_memcpy(&v, bytes, sizeof(v));
    return v;
  }
  template <int kHalf>
  static V Weights(const uint8_t* w) {
    return Load4(w);
  }
  template <int kHalf>
  static V Broadcast(const int8_t* x) {
    return Load4(x);
  }
  static void ArrangeGroups(int8_t*, int64_t) {}
  template <int kRows>
  static V Dot(V sum, V w, V x) {
    for (int shift = 0; shift < 32; shift += 8) {
      sum += static_cast<int32_t>(static_cast<uint8_t>(w >> shift)) * static_cast<int8_t>(x >> shift);
    }
    return sum;
  }
  static V Add(V a, V b) { return a + b; }
  static V LoadSums(const int32_t* sums) { return *sums; }
  static void StoreSums(int32_t* sums, V v) { *sums = v; }
};

struct Float {
  using V = float;
  using Raw = uint32_t;
  static constexpr int kLanes = 1;
  static constexpr int kRowTile = 2;
  static constexpr int kRegs = 16;
  static constexpr int kDirectRows = 2;
  static constexpr int DirectRegsFor(int) { return 16; }
  static V Zero() { return 0.0f; }
  static V Load(const float* p) { return *p; }
  static void Store(float* p, V v) { *p = v; }
  static V Broadcast(const float* p) { return *p; }
  static V Fma(V a, V b, V c) { return a * b + c; }
  static Raw LoadRaw(const uint8_t* w) {
    Raw raw;
    __builtin_memcpy(&raw, w, sizeof(raw));
    return raw;
  }
  template <int kIndex>
  static V Decode(Raw raw) {
    return static_cast<float>(static_cast<int32_t>(raw >> (8 * kIndex) & 0xffu) - static_cast<int32_t>(kZeroPoint));
  }
};

}  // namespace

const Kernels& PortableKernels() {
  static constexpr Kernels kernels = {"scalar multiply-add, 2x16 tile", "scalar multiply-add, 2x16 tile", 4, 1.0, 0.5,
                                      QuantizeRows<Integer>, MultiplyInteger<Integer>,         MultiplyFloat<Float>};
  return kernels;
}

}  // namespace tfcompress::int8
