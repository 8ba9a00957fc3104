// Quantisation of activations on the GPU: the arithmetic of base/quantize-inl.h, element by element, so that x_q, scales and sums are
// bit-identical to the CPU's.
#ifndef TFCOMPRESS_BASE_CUDA_QUANTIZE_CUH_
#define TFCOMPRESS_BASE_CUDA_QUANTIZE_CUH_

#include "base/cuda_epilogue.cuh"
#include "base/cuda_intrinsics.cuh"
#include "base/quantize-inl.h"

namespace tfcompress {

// Activations in device memory.
struct CudaRows {
  const void* x = nullptr;  // [m, k]
  ElementType type = ElementType::kFloat32;
  int64_t m = 0, k = 0;
  int64_t stride = 0;    // elements
  bool aligned = false;  // four elements from a multiple of four on are one load
};

namespace {

inline CudaRows MakeCudaRows(const void* x, ElementType type, int64_t m, int64_t k, int64_t stride) {
  return {x, type, m, k, stride, RowsAligned(x, type, stride)};
}

// A row, its address worked out once. Index: int where k is known to fit, which spares loops 64-bit arithmetic.
template <typename Index>
struct CudaRow {
  const void* x;  // of its first activation
  ElementType type;
  Index k, whole;  // from multiples of four below `whole` on, four elements are one load
};

template <typename Index>
TFCOMPRESS_DEVICE CudaRow<Index> RowOf(const CudaRows& rows, int64_t row) {
  const int64_t bytes = row * rows.stride * (rows.type == ElementType::kFloat32 ? 4 : 2);
  const Index k = static_cast<Index>(rows.k);
  return {static_cast<const char*>(rows.x) + bytes, rows.type, k, rows.aligned ? k / 4 * 4 : 0};
}

// x[first + i], i < 4, as float; 0 beyond k. first is a multiple of 4.
template <typename Index>
TFCOMPRESS_DEVICE void LoadFour(const CudaRow<Index>& row, Index first, float (&v)[4]) {
  const bool whole = first < row.whole;
  if (row.type == ElementType::kFloat32) {
    const float* x = static_cast<const float*>(row.x) + first;
    if (whole) {
      const Words4 w = LoadWordsReadOnly<4>(x);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = BitCast<float>(w.v[i]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = first + i < row.k ? LoadReadOnly(x + i) : 0.0f;
    return;
  }
  const uint16_t* x = static_cast<const uint16_t*>(row.x) + first;
  uint16_t h[4];
  if (whole) {
    const Words<2> w = LoadWordsReadOnly<2>(x);
#pragma unroll
    for (int i = 0; i < 4; ++i) h[i] = static_cast<uint16_t>(w.v[i / 2] >> (16 * (i % 2)));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) h[i] = first + i < row.k ? LoadReadOnly(x + i) : uint16_t{0};
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = row.type == ElementType::kBFloat16 ? FromBFloat16(h[i]) : FromFloat16(h[i]);
}

TFCOMPRESS_DEVICE void LoadFour(const CudaRows& rows, int64_t row, int64_t first, float (&v)[4]) { LoadFour(RowOf<int64_t>(rows, row), first, v); }

// x[row, k] as float; 0 beyond k.
TFCOMPRESS_DEVICE float LoadOne(const CudaRows& rows, int64_t row, int64_t k) {
  if (k >= rows.k) return 0.0f;
  const int64_t at = row * rows.stride + k;
  if (rows.type == ElementType::kFloat32) return LoadReadOnly(static_cast<const float*>(rows.x) + at);
  const uint16_t h = LoadReadOnly(static_cast<const uint16_t*>(rows.x) + at);
  return rows.type == ElementType::kBFloat16 ? FromBFloat16(h) : FromFloat16(h);
}

// The activations that the i-th word of bytes of a row holds. kFields 1: four in a row. More, "field order": of every kFields words, word f holds
// k = f, kFields + f, 2 kFields + f, 3 kFields + f: the fields of a word of packed bits (formats/binary/cuda.h). Neighbouring lanes then take
// neighbouring activations, whole sectors.
template <int kFields>
TFCOMPRESS_DEVICE void LoadFields(const CudaRows& rows, int64_t row, int64_t i, float (&v)[4]) {
  if constexpr (kFields == 1) {
    LoadFour(rows, row, 4 * i, v);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = LoadOne(rows, row, i / kFields * (4 * kFields) + j * kFields + i % kFields);
  }
}

// Of |v| as bits, at least so_far.
TFCOMPRESS_DEVICE uint32_t MostMagnitude(const float (&v)[4], uint32_t so_far) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t bits = BitCast<uint32_t>(v[i]) & 0x7fffffffu;
    so_far = bits > so_far ? bits : so_far;
  }
  return so_far;
}

struct Scaling {
  float scale, inverse_scale;
  bool clamp;
};

// From a row's largest magnitude, as bits. `x_scale` null: dynamic.
TFCOMPRESS_DEVICE Scaling ScalingOf(uint32_t most, const float* x_scale) {
  constexpr uint32_t kInfinity = 0x7f800000u;
  constexpr uint32_t kTiny = (127u - 100u) << 23;  // 2^-100
  const float nan = BitCast<float>(0x7fc00000u);
  if (x_scale != nullptr) {
    const float given = LoadReadOnly(x_scale);
    if (!(given >= kLeastXScale && given <= kMostXScale)) return {nan, 0.0f, true};
    return {most > kInfinity ? nan : given, 1.0f / given, true};
  }
  if (most >= kInfinity) return {nan, 0.0f, false};
  if (most < kTiny) return {0.0f, 0.0f, false};
  return {BitCast<float>(most) / 127.0f, 127.0f / BitCast<float>(most), false};
}

// Four quantised values as the bytes of a word; their sum is added to *sum.
TFCOMPRESS_DEVICE uint32_t QuantizeFour(const float (&v)[4], const Scaling& scaling, uint32_t* sum) {
  constexpr uint32_t kLargest = 0x42fe0000;  // the bits of 127.0f
  static_assert((kRoundMagicBits & 0xff) == 0, "the lowest byte of what is rounded is the value's");
  uint32_t rounded[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float scaled = v[i] * scaling.inverse_scale;
    if (scaling.clamp) {
      const uint32_t bits = BitCast<uint32_t>(scaled);
      const uint32_t magnitude = bits & 0x7fffffffu;
      scaled = BitCast<float>((magnitude < kLargest ? magnitude : kLargest) | (bits & 0x80000000u));
    }
    rounded[i] = BitCast<uint32_t>(scaled + kRoundMagic);
  }
  const uint32_t word = BytePermute(BytePermute(rounded[0], rounded[1], 0x0040u), BytePermute(rounded[2], rounded[3], 0x0040u), 0x5410u);
  *sum = static_cast<uint32_t>(Dot4Signed(word, 0x01010101u, static_cast<int32_t>(*sum)));
  return word;
}

// What is summed with a NaN may be anything.
TFCOMPRESS_DEVICE RowScale MakeRowScale(const Scaling& scaling, uint32_t sum) {
  return {scaling.scale, scaling.scale == scaling.scale ? static_cast<int32_t>(sum) : 0};
}

TFCOMPRESS_DEVICE uint32_t WarpMost(uint32_t v) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const uint32_t other = ShuffleXor(v, lanes);
    v = other > v ? other : v;
  }
  return v;
}

TFCOMPRESS_DEVICE uint32_t WarpSum(uint32_t v) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) v += ShuffleXor(v, lanes);
  return v;
}

}  // namespace

// x_q[row] (q_stride bytes, a multiple of 4 * fields; zeros beyond k), and its scale and sum, for each row; scales to scale_copy too unless it is null.
// `fields`, 1, 4 or 8: the order of the bytes, as LoadFields has it.
std::string LaunchQuantizeRows(const CudaRows& rows, const float* x_scale, uint8_t* q, int64_t q_stride, RowScale* row_scales,
                               float* scale_copy, void* stream, int fields = 1);

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_CUDA_QUANTIZE_CUH_
