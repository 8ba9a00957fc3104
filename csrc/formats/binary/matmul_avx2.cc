// AVX2 + FMA: bits are counted by tables of nibbles (vpshufb), levels multiplied by vpmaddubsw into 16-bit sums, which levels of at most 3 cannot
// saturate, and tables of 16 floats are two registers.
#include "base/x86_intrinsics.h"
#include "formats/binary/matmul-inl.h"

namespace tfcompress::binary {
namespace {

struct Words {
  using V = __m256i;
  static constexpr int kOutputs = 8;
  static V Zero() { return _mm256_setzero_si256(); }
  static V Load(const uint8_t* w) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)); }
  static V Add(V a, V b) { return _mm256_add_epi32(a, b); }
  static void Store(int32_t* sums, V v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), v); }
};

// ---- Many rows of signs by a panel -------------------------------------------------------------------------------------------------------
//
// A nibble of the weights is the index of a table of how many bits it differs in from a nibble of x: one vpshufb and one vpaddb count 4 bits of 32
// outputs, where Signs::Count takes 8 instructions for 32 bits of 8. For that the nibbles of 64 outputs, of the same k, must lie side by
// side: they are brought there once for all rows.

constexpr int64_t kDepth = 7;  // words at a time: 56 nibbles of at most 4 bits are counted in a byte

// table[x][w] = number of bits in which the nibbles x and w differ
struct NibbleTables {
  alignas(16) uint8_t table[16][16];
  constexpr NibbleTables() : table() {
    for (int x = 0; x < 16; ++x) {
      for (int w = 0; w < 16; ++w) table[x][w] = static_cast<uint8_t>((x ^ w) % 2 + (x ^ w) / 2 % 2 + (x ^ w) / 4 % 2 + (x ^ w) / 8);
    }
  }
};
constexpr NibbleTables kNibbleTables;

// nibbles[8 * word + i][o] = nibble i of the word of output o, for 16 outputs.
TFCOMPRESS_INLINE void SpreadNibbles(__m256i low, __m256i high, uint8_t* nibbles) {
  const __m256i bytes = _mm256_set1_epi32(255);
  const __m128i mask = _mm_set1_epi8(15);
  TFCOMPRESS_UNROLL
  for (int j = 0; j < 4; ++j) {
    const __m256i a = _mm256_and_si256(_mm256_srli_epi32(low, 8 * j), bytes);
    const __m256i b = _mm256_and_si256(_mm256_srli_epi32(high, 8 * j), bytes);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
    const __m128i byte = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_store_si128(reinterpret_cast<__m128i*>(nibbles + 2 * j * kPanelWidth), _mm_and_si128(byte, mask));
    _mm_store_si128(reinterpret_cast<__m128i*>(nibbles + (2 * j + 1) * kPanelWidth), _mm_and_si128(_mm_srli_epi16(byte, 4), mask));
  }
}

// counts[r][o] += bits in which x[r] and 64 outputs differ, for MR rows and some words, in the order of vpunpck.
template <int MR>
TFCOMPRESS_NOINLINE void CountTile(const uint8_t* nibbles, const uint32_t* x, int64_t x_stride, int64_t words, uint16_t* counts) {
  __m256i acc[MR][2];
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
  for (int64_t i = 0; i < words; ++i, ++x) {
    TFCOMPRESS_UNROLL
    for (int nibble = 0; nibble < 8; ++nibble, nibbles += kPanelWidth) {
      const __m256i low = _mm256_load_si256(reinterpret_cast<const __m256i*>(nibbles));
      const __m256i high = _mm256_load_si256(reinterpret_cast<const __m256i*>(nibbles + 32));
      TFCOMPRESS_UNROLL
      for (int r = 0; r < MR; ++r) {
        const uint8_t* row = kNibbleTables.table[x[r * x_stride] >> (4 * nibble) & 15];
        const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
        acc[r][0] = _mm256_add_epi8(acc[r][0], _mm256_shuffle_epi8(table, low));
        acc[r][1] = _mm256_add_epi8(acc[r][1], _mm256_shuffle_epi8(table, high));
        TFCOMPRESS_KEEP_ORDER(acc[r][0]);
        TFCOMPRESS_KEEP_ORDER(acc[r][1]);
      }
    }
  }
  const __m256i zero = _mm256_setzero_si256();
  TFCOMPRESS_UNROLL
  for (int r = 0; r < MR; ++r) {
    TFCOMPRESS_UNROLL
    for (int half = 0; half < 2; ++half) {
      __m256i* to = reinterpret_cast<__m256i*>(counts + r * kPanelWidth + half * 32);
      _mm256_store_si256(to, _mm256_add_epi16(_mm256_load_si256(to), _mm256_unpacklo_epi8(acc[r][half], zero)));
      _mm256_store_si256(to + 1, _mm256_add_epi16(_mm256_load_si256(to + 1), _mm256_unpackhi_epi8(acc[r][half], zero)));
    }
  }
}

template <int MR>
TFCOMPRESS_INLINE void CountRows(int64_t rows, const uint8_t* nibbles, const uint32_t* x, int64_t x_stride, int64_t words, uint16_t* counts) {
  if constexpr (MR > 1) {
    if (rows < MR) return CountRows<MR - 1>(rows, nibbles, x, x_stride, words, counts);
  }
  CountTile<MR>(nibbles, x, x_stride, words, counts);
}

// 16 registers: tiles of 4 rows x 16 outputs hold 8 sums, 2 words, 1 broadcast, a table and a mask.
struct Signs : Words {
  static constexpr int kRowTile = 4;
  static constexpr int64_t kPartialSteps = 31;  // a byte counts up to 8 bits a step
  static constexpr int64_t kPanelRows = 16;     // spreading a panel's nibbles costs as much as multiplying about 10 rows by them
  static constexpr int64_t kPanelInFeatures = 65535;  // which 16 bits count
  static constexpr int RegsFor(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : 2; }
  static uint32_t Words32(const float* x, uint32_t* nans) {
    uint32_t word = 0;
    for (int i = 0; i < 32; i += 8) {
      const __m256 v = _mm256_loadu_ps(x + i);
      *nans |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
      word |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NLT_UQ))) << i;
    }
    return word;
  }
  static uint32_t AtLeast16(const int32_t* a, const int32_t* b) {
    uint32_t less = 0;
    for (int i = 0; i < 16; i += 8) {
      const V v = _mm256_cmpgt_epi32(Load(reinterpret_cast<const uint8_t*>(b + i)), Load(reinterpret_cast<const uint8_t*>(a + i)));
      less |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(v))) << i;
    }
    return ~less & 0xffffu;
  }
  static V Broadcast(uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }
  static V And(V a, V b) { return _mm256_and_si256(a, b); }
  static V Count(V sums, V w, V x) {
    const V nibbles = _mm256_set1_epi8(15);
    const V counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const V bits = _mm256_xor_si256(w, x);
    const V low = _mm256_shuffle_epi8(counts, _mm256_and_si256(bits, nibbles));
    const V high = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi32(bits, 4), nibbles));
    sums = _mm256_add_epi8(sums, _mm256_add_epi8(low, high));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static V AddPartial(V sums, V partial) {
    const V pairs = _mm256_maddubs_epi16(partial, _mm256_set1_epi8(1));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static void CountPanel(const uint8_t* w, int64_t width, const uint32_t* x, int64_t x_stride, int64_t rows, int64_t words, uint32_t last,
                         int32_t* sums) {
    alignas(32) uint8_t nibbles[kDepth * 8 * kPanelWidth];
    alignas(32) uint16_t counts[kMaxRows * kPanelWidth];
    __builtin_memset(counts, 0, static_cast<uint64_t>(rows * kPanelWidth) * 2);
    for (int64_t first = 0; first < words; first += kDepth) {
      const int64_t depth = Min(kDepth, words - first);
      for (int64_t i = 0; i < depth; ++i) {
        const uint8_t* from = w + (first + i) * width * 4;
        const V mask = Broadcast(first + i + 1 == words ? last : 0xffffffffu);
        for (int64_t o = 0; o < width; o += 16) {
          SpreadNibbles(And(Load(from + o * 4), mask), And(Load(from + o * 4 + 32), mask), nibbles + i * 8 * kPanelWidth + o);
        }
      }
      ForEachRowTile(rows, kRowTile, [&](int64_t r0, int64_t height) {
        CountRows<kRowTile>(height, nibbles, x + r0 * x_stride + first, x_stride, depth, counts + r0 * kPanelWidth);
      });
    }
    for (int64_t r = 0; r < rows; ++r) {
      TFCOMPRESS_UNROLL
      for (int64_t o = 0; o < kPanelWidth; o += 8) {  // back into order: of 32 outputs, 0-7 and 16-23 lie before 8-15 and 24-31
        const int64_t at = o / 32 * 32 + o % 16 * 2 + o % 32 / 16 * 8;
        const __m128i eight = _mm_load_si128(reinterpret_cast<const __m128i*>(counts + r * kPanelWidth + at));
        Store(sums + r * kPanelWidth + o, _mm256_cvtepu16_epi32(eight));
      }
    }
  }
};

// Levels are 0 ... 3: a step adds at most 2 * 3 * 127 = 762 to a 16-bit sum, 5 words (binary 8 steps each, of at most 254) 10,160 or (ternary 4
// steps) 15,240.
struct Bytes : Words {
  static constexpr int kRowTile = 4;
  static constexpr int kOneRowSets = 1;
  static constexpr int64_t kPartialWords = 5;
  static_assert(kPartialWords * 4 * 762 < 32768 && kPartialWords * 8 * 254 < 32768, "16-bit sums must not saturate");
  static constexpr int RegsFor(int rows) { return rows == 1 ? 4 : 2; }
  template <int kBits, int kField>
  static V Field(V words) {
    const V mask = _mm256_set1_epi8((1 << kBits) - 1);
    return _mm256_and_si256(kField == 0 ? words : _mm256_srli_epi32(words, kField * kBits), mask);
  }
  static V Broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm256_set1_epi32(four);
  }
  static V Dot(V sums, V levels, V x) {
    sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(levels, x));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static V AddPartial(V sums, V partial) { return _mm256_add_epi32(sums, _mm256_madd_epi16(partial, _mm256_set1_epi16(1))); }
};

struct Tables : Words {
  using F = __m256;
  struct Index {
    __m256i low;    // the three lowest bits name an entry of a half
    __m256 half;    // the sign bit names the half
  };
  static constexpr int kRowTile = 4;
  static constexpr int kOneRowSets = 1;
  static constexpr int RegsFor(int rows) { return rows == 1 ? 4 : 2; }
  static F Zero() { return _mm256_setzero_ps(); }
  template <int kGroup>
  static Index Group(V words) {
    return {_mm256_srli_epi32(words, 4 * kGroup), _mm256_castsi256_ps(_mm256_slli_epi32(words, 28 - 4 * kGroup))};
  }
  static F AddEntries(F sums, const Index& index, const float* table) {
    const F low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index.low);
    const F high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index.low);
    sums = _mm256_add_ps(sums, _mm256_blendv_ps(low, high, index.half));
    TFCOMPRESS_KEEP_ORDER(sums);
    return sums;
  }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static void Store(float* sums, F v) { _mm256_storeu_ps(sums, v); }
};

}  // namespace

const Kernels& Avx2Kernels() {
  static constexpr Kernels kernels = MakeKernels<Signs, Bytes, Tables>("2 vpermps + vblendvps + vaddps, 4x16 tile",
                                                                       "vpmaddubsw on levels + vpaddw, 4x16 tile",
                                                                       "vpxor + 2 vpshufb + vpaddb, 4x16 tile", 16.0, 32.0, 120.0);
  return kernels;
}

}  // namespace tfcompress::binary
