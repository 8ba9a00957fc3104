// Pruned weights: y[m, n] = activation(x_scale[m] * scale[n] * sum over the stored (k, n) of x[m, k] * w[k, n] + bias[n])
//
// Weights are stored in steps, which are made for look-ups inside registers (vpermb, vpermi2ps, ...). A step belongs to a panel of 16 outputs
// (lanes) and to a window of x, `reach` consecutive k that start at a multiple of `stride`; for each lane it holds `entries` weights of the
// window, each with its index in the window:
//
//     step s:   windows[s] = 3, that is k = 48 ... 111 (float32: stride 16, reach 64, 1 entry a lane)
//               lane          0       1       2     ...     15
//               indices[s]  | 5     | 40    | pad   |    | 17    |     uint8: k = 3 * 16 + index
//               values[s]   | -0.3  | 1.2   | 0     |    | 0.8   |
//
//     values      float32    bfloat16                   int8
//     stride      16         32                         64          64 bytes of x as the kernels hold it
//     reach       64         64                         64 or 128
//     entries     1          2 (a lane of vdpbf16ps)    4 (a lane of vpdpbusd)
//
// Windows of one panel follow each other in ascending order and overlap: a lane that has fewer weights in the first part of a window fills its
// places with those of the next, so that few places stay empty (10 % of uniformly random weights fill 78 %; windows that do not
// overlap 50 %). An empty place holds value 0 and index 128 (kPadding), so that it can be told from a stored weight whose value is 0.
//
// All that says where values lie is one array of bytes, `structure`: a tensor more would cost an op at batch 1 as much as a few hundred steps.
//
//     indices [steps, 16, entries] uint8 | panels [P + 1] int32 | order [n] int32 | k int32 | windows [steps] uint16
//
// n follows from the number of bytes and of steps. panels[p] is the first step of panel p, panels[P] the number of steps. order[16 * p + lane] is the output that a lane computes: outputs of
// like fill share a panel where that saves steps.
//
// Whatever the bytes are, nothing is read out of bounds: an index is taken modulo the reach, and x is copied or quantised to memory that the
// last window's reach fits into. What remains is checked at every call (CheckMatrix): `windows`, a 130th of the bytes (an 80th with float32
// values), `panels` and `order`, by each tier's own instructions (Inspect in kernels.h): 1 to 3 % of the time that one core takes for one row of
// x at 80 to 95 % zeros. Checking a window where it is used would cost more: its address is what a step waits for.
#ifndef TFCOMPRESS_FORMATS_SPARSE_SPARSE_H_
#define TFCOMPRESS_FORMATS_SPARSE_SPARSE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/parallel.h"
#include "base/types.h"

namespace tfcompress::sparse {

inline constexpr int64_t kLanes = 16;        // outputs of a panel
inline constexpr int64_t kPadding = 128;     // index of an empty place
inline constexpr int64_t kMostWindows = 65536;  // a window is a uint16

enum class Values : int { kFloat32, kBFloat16, kInt8, kCount };
inline constexpr const char* kValuesNames[] = {"float32", "bfloat16", "int8"};

TFCOMPRESS_INLINE constexpr int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
TFCOMPRESS_INLINE constexpr int64_t Entries(Values values) {
  return values == Values::kFloat32 ? 1 : values == Values::kBFloat16 ? 2 : 4;
}
TFCOMPRESS_INLINE constexpr int64_t Stride(Values values) { return kLanes * Entries(values); }
TFCOMPRESS_INLINE constexpr int64_t ValueBytes(Values values) {
  return values == Values::kFloat32 ? 4 : values == Values::kBFloat16 ? 2 : 1;
}
TFCOMPRESS_INLINE constexpr int64_t StepEntries(Values values) { return kLanes * Entries(values); }
TFCOMPRESS_INLINE constexpr int64_t NumPanels(int64_t n) { return DivideUp(n, kLanes); }
TFCOMPRESS_INLINE constexpr int64_t NumWindows(Values values, int64_t k) { return DivideUp(k, Stride(values)); }
// int8: 127 * 255 * 65,536 < 2^31, so that sums of unsigned activations fit; float: what a uint16 window reaches.
TFCOMPRESS_INLINE constexpr int64_t MostInFeatures(Values values) {
  return values == Values::kInt8 ? 65536 : kMostWindows * Stride(values);
}

TFCOMPRESS_INLINE constexpr int64_t StructureBytes(Values values, int64_t steps, int64_t n) {
  return steps * (StepEntries(values) + 2) + 4 * (NumPanels(n) + 1 + n + 1);
}
// The n of a structure, or -1 if none has so many bytes.
TFCOMPRESS_INLINE constexpr int64_t OutFeatures(Values values, int64_t steps, int64_t structure_bytes) {
  const int64_t words = (structure_bytes - steps * (StepEntries(values) + 2)) / 4 - 2;  // n + ceil(n / 16)
  const int64_t n = words * 16 / 17;
  return words >= 0 && StructureBytes(values, steps, n) == structure_bytes ? n : -1;
}

// A packed matrix that somebody else owns.
struct Matrix {
  Values values_type = Values::kFloat32;
  int64_t reach = 64;
  int64_t k = 0, n = 0;
  int64_t steps = 0;
  const uint16_t* windows = nullptr;  // [steps]
  const uint8_t* indices = nullptr;   // [steps, 16, entries]
  const void* values = nullptr;       // [steps, 16, entries]
  const int32_t* panels = nullptr;    // [NumPanels(n) + 1]
  const int32_t* order = nullptr;     // [n]
  bool in_order = false;              // order[j] = j: CheckMatrix() finds it out
};

// Points windows, indices, panels and order into a structure, which is 4-byte aligned, and sets n, without reading it: it may be in a GPU's
// memory. Returns false where no n goes with its size.
bool PointInto(const uint8_t* structure, int64_t structure_bytes, Matrix* matrix);
std::string StructureSizeError(int64_t steps, int64_t structure_bytes);
// The same for a structure that can be read. Empty, or what is wrong with its size or with matrix->k, which must be
// the structure's.
std::string SetStructure(const uint8_t* structure, int64_t structure_bytes, Matrix* matrix);

// Empty, or what is wrong: matrix.k must be the structure's.
std::string CheckInFeatures(const Matrix& matrix);
// Empty, or what is wrong with the rest.
std::string CheckMatrix(Matrix* matrix);

// A packed matrix that owns its arrays; values are the bytes of float, bfloat16 (uint16_t) or int8 values.
struct Packed {
  std::vector<uint16_t> windows;
  std::vector<uint8_t> indices;
  std::vector<char> values;
  std::vector<int32_t> panels;
  std::vector<int32_t> order;
  int32_t k = 0;

  std::vector<uint8_t> Structure() const;
};

// Outputs that do not lie beside each other are written one by one: for a panel and a row that costs as much as about so many steps.
inline constexpr int64_t kScatterSteps = 64;

// Packs the nonzeros of `weights`, [k, n] row-major, of the type that `values` names. Outputs are reordered, by their numbers of nonzeros, where
// that saves more than `least_saved` steps a panel.
Packed Pack(const void* weights, Values values, int64_t reach, int64_t k, int64_t n, int64_t least_saved = kScatterSteps);
// The exact inverse: zeros, and the stored values. Requires CheckMatrix(&matrix).empty(). Places that no k or output belongs to are ignored;
// of several values for one place the last counts.
void Unpack(const Matrix& matrix, void* weights);
// weights[k, n] as float32, times scale[n] if that is not null; rows of panels split over the pool.
void Dequantize(const Matrix& matrix, const float* scale, float* weights, ThreadPool* pool);
// The gradient with respect to float32 values (sampled dense-dense product): gradient[s, lane] = sum over m of
// x[m, k] * dz[m, n] for the (k, n) of each stored weight, 0 in empty places. x is [m, k], dz [m, n], both float32 and dense.
void ValuesGradient(const Matrix& matrix, const float* x, const float* dz, int64_t m, float* gradient, ThreadPool* pool);

enum class Activations : int { kDynamic, kStatic };  // of int8 values; float values take x as it is
inline constexpr const char* kActivationsNames[] = {"dynamic", "static"};

// Float values: sums are float32. With bfloat16 values x is rounded to bfloat16 too where the CPU multiplies pairs of them (vdpbf16ps),
// otherwise not. An infinity or a NaN in x makes some or all outputs of its row infinite or NaN: zeros are
// not multiplied, and empty places may be. int8: as in formats/int8.
struct MatMulArgs {
  int64_t m = 0;
  const void* x = nullptr;  // [m, k], x_type, rows x_stride elements apart
  ElementType x_type = ElementType::kFloat32;
  int64_t x_stride = 0;
  Matrix matrix;
  const float* scale = nullptr;  // [n]; int8 only
  const float* bias = nullptr;   // [n] or null
  Activations activations = Activations::kDynamic;
  float x_scale = 0.0f;  // kStatic only
  Activation activation = Activation::kLinear;
  void* y = nullptr;  // [m, n], rows y_stride elements apart; kInt32: the bare integer sums (int8 only)
  ElementType y_type = ElementType::kFloat32;
  int64_t y_stride = 0;
  float* row_scale = nullptr;  // [m] or null: receives x_scale[m] (int8 only)
};

// Empty, or what is wrong with the arguments, CheckMatrix() included.
std::string CheckMatMul(MatMulArgs* args);
// Bytes of scratch memory that MatMul needs, for a pool of this many threads.
int64_t WorkspaceBytes(const MatMulArgs& args, int num_threads);
// Requires CheckMatMul(&args).empty(). `workspace` is 64-byte aligned.
void MatMul(const MatMulArgs& args, void* workspace, ThreadPool* pool);

}  // namespace tfcompress::sparse

#endif  // TFCOMPRESS_FORMATS_SPARSE_SPARSE_H_
