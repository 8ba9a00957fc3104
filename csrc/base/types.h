// Types that every format shares: element types, activations, instruction-set tiers.
// No TensorFlow, no Python, and nothing inline that an instruction-set file could emit as a weak symbol.
#ifndef TFCOMPRESS_BASE_TYPES_H_
#define TFCOMPRESS_BASE_TYPES_H_

#include <cstdint>

// Inlined even without optimisation: never a symbol of an object file. In CUDA sources the same functions run on the GPU too.
#ifdef __CUDACC__
#define TFCOMPRESS_INLINE __host__ __device__ inline __attribute__((always_inline))
#else
#define TFCOMPRESS_INLINE inline __attribute__((always_inline))
#endif
// Tiles are not inlined: each gets the registers to itself.
#define TFCOMPRESS_NOINLINE __attribute__((noinline))
// Before every loop over registers: a register array that is indexed at run time lives in memory.
#define TFCOMPRESS_UNROLL _Pragma("GCC unroll 32")

namespace tfcompress {

enum class ElementType : int { kFloat32, kBFloat16, kFloat16, kInt32 };

// Activations that an epilogue can fuse, with Keras' default parameters. The order is the order of kActivationNames.
enum class Activation : int {
  kLinear,
  kRelu,
  kRelu6,
  kLeakyRelu,  // slope 0.2
  kElu,        // alpha 1
  kSelu,
  kGelu,      // exact: x * Phi(x)
  kGeluTanh,  // the tanh approximation
  kSilu,
  kSigmoid,
  kTanh,
  kSoftplus,
  kSoftsign,
  kExponential,
  kHardSigmoid,
  kHardSilu,
  kCount
};

inline constexpr const char* kActivationNames[] = {
    "linear", "relu", "relu6",    "leaky_relu", "elu",         "selu",         "gelu",     "gelu_tanh",
    "silu",   "sigmoid", "tanh",  "softplus",   "softsign",    "exponential",  "hard_sigmoid", "hard_silu"};
static_assert(sizeof(kActivationNames) / sizeof(kActivationNames[0]) == static_cast<int>(Activation::kCount),
              "every activation has a name");

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_TYPES_H_
