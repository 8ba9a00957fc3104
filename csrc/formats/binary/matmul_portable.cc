// Any CPU: plain C++. A "register" holds one output.
#include "formats/binary/matmul-inl.h"

namespace tfcompress::binary {
namespace {

struct Words {
  using V = int32_t;
  static constexpr int kOutputs = 1;
  static constexpr int kRowTile = 2;
  static constexpr int kOneRowSets = 1;
  static constexpr int RegsFor(int) { return 4; }
  static V Zero() { return 0; }
  static V Load(const uint8_t* w) {
    V v;
    __builtin_memcpy(&v, w, sizeof(v));
    return v;
  }
  static V Add(V a, V b) { return a + b; }
  static void Store(int32_t* sums, V v) { *sums = v; }
};

struct Signs : Words {
  static constexpr int kPartialSteps = 0;
  static constexpr int64_t kPanelRows = 0;
  static uint32_t Words32(const float* x, uint32_t* nans) {
    uint32_t word = 0;
    for (int i = 0; i < 32; ++i) {
      word |= static_cast<uint32_t>(!(x[i] < 0.0f)) << i;
      *nans |= x[i] != x[i];
    }
    return word;
  }
  static uint32_t AtLeast16(const int32_t* a, const int32_t* b) {
    uint32_t bits = 0;
    for (int i = 0; i < 16; ++i) bits |= static_cast<uint32_t>(a[i] >= b[i]) << i;
    return bits;
  }
  static V Broadcast(uint32_t word) { return static_cast<V>(word); }
  static V And(V a, V b) { return a & b; }
  static V Count(V sum, V w, V x) { return sum + __builtin_popcount(static_cast<uint32_t>(w ^ x)); }
};

struct Bytes : Words {
  static constexpr int64_t kPartialWords = 0;
  template <int kBits, int kField>
  static V Field(V words) {
    return static_cast<V>(static_cast<uint32_t>(words) >> (kField * kBits) & (kBits == 1 ? 0x01010101u : 0x03030303u));
  }
  static V Broadcast(const int8_t* x) { return Load(reinterpret_cast<const uint8_t*>(x)); }
  static V Dot(V sum, V levels, V x) {
    for (int shift = 0; shift < 32; shift += 8) {
      sum += static_cast<int32_t>(static_cast<uint8_t>(levels >> shift)) * static_cast<int8_t>(x >> shift);
    }
    return sum;
  }
};

struct Tables : Words {
  using F = float;
  using Index = int32_t;
  static F Zero() { return 0.0f; }
  template <int kGroup>
  static Index Group(V words) {
    return static_cast<Index>(static_cast<uint32_t>(words) >> (4 * kGroup) & 15u);
  }
  static F AddEntries(F sum, Index index, const float* table) { return sum + table[index]; }
  static F Add(F a, F b) { return a + b; }
  static void Store(float* sums, F v) { *sums = v; }
};

}  // namespace

const Kernels& PortableKernels() {
  static constexpr Kernels kernels = MakeKernels<Signs, Bytes, Tables>("table of 16 sums, 2x4 tile", "scalar multiply-add, 2x4 tile",
                                                                       "xor + popcount, 2x4 tile", 2.0, 1.0, 8.0);
  return kernels;
}

}  // namespace tfcompress::binary
