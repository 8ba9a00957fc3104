// The one header that wraps CUDA: every intrinsic, built-in variable and launch that kernels use, under a name of ours. The same kernels also
// compile with a C++ compiler, against a test-only runtime (TFCOMPRESS_CUDA_EMULATION), which runs a fiber for every CUDA thread.
#ifndef TFCOMPRESS_BASE_CUDA_INTRINSICS_CUH_
#define TFCOMPRESS_BASE_CUDA_INTRINSICS_CUH_

#ifdef TFCOMPRESS_CUDA_EMULATION
#include "cuda_emulation.h"
#else

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/types.h"

#define TFCOMPRESS_GLOBAL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define TFCOMPRESS_DEVICE __device__ __forceinline__

namespace tfcompress {

// The architecture that is compiled for, 80 for 8.0; 0 in host code. Constant in device code.
#ifdef __CUDA_ARCH__
inline constexpr int kCudaArch = __CUDA_ARCH__ / 10;
#else
inline constexpr int kCudaArch = 0;
#endif

// 1, 2 or 4 words that are loaded and stored as one.
template <int kWords>
struct alignas(4 * kWords) Words {
  static_assert(kWords == 1 || kWords == 2 || kWords == 4, "an access of 32, 64 or 128 bits");
  uint32_t v[kWords];
};
using Words4 = Words<4>;

// ---- Where a thread is ---------------------------------------------------------------------------------------------------------------
TFCOMPRESS_DEVICE int ThreadIndex() { return static_cast<int>(threadIdx.x); }
// Known not to be negative: divided by powers of two it is shifted, and no more. For GEMVs: what is so cheap ptxas works out anew in the loops of
// GEMMs, a fifth more instructions there, where it otherwise stays in registers.
TFCOMPRESS_DEVICE int NonNegativeThreadIndex() {
  const int thread = ThreadIndex();
  __builtin_assume(thread >= 0 && thread < 1024);
  return thread;
}
// The same, read once more: what follows from it need not stay in registers until then.
TFCOMPRESS_DEVICE int ThreadIndexAgain() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  __builtin_assume(thread >= 0 && thread < 1024);
  return thread;
}
TFCOMPRESS_DEVICE int64_t BlockIndex() { return static_cast<int64_t>(blockIdx.x); }
TFCOMPRESS_DEVICE int64_t NumBlocks() { return static_cast<int64_t>(gridDim.x); }

// The block's dynamic shared memory; kernels have no other.
TFCOMPRESS_DEVICE char* SharedMemory() {
  extern __shared__ __align__(128) char tfcompress_shared_memory[];
  return tfcompress_shared_memory;
}

// ---- Barriers and exchange -----------------------------------------------------------------------------------------------------------
TFCOMPRESS_DEVICE void SyncThreads() { __syncthreads(); }
TFCOMPRESS_DEVICE void SyncWarp() { __syncwarp(); }
// All 32 lanes take part.
template <typename T>
TFCOMPRESS_DEVICE T ShuffleXor(T value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes);
}
// Bit l is lane l's predicate. All 32 lanes take part.
TFCOMPRESS_DEVICE uint32_t Ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }

// ---- Memory --------------------------------------------------------------------------------------------------------------------------
// 16 bytes that are read once and written by nobody: not kept in L1.
TFCOMPRESS_DEVICE Words4 LoadStreaming(const void* from) {
  Words4 w;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(w.v[0]), "=r"(w.v[1]), "=r"(w.v[2]), "=r"(w.v[3])
      : "l"(from));
  return w;
}
// Any memory. By CUDA's vector types: an access of a struct may come out as one access for each member.
template <int kWords>
TFCOMPRESS_DEVICE Words<kWords> LoadWords(const void* from) {
  if constexpr (kWords == 1) {
    return {{*static_cast<const uint32_t*>(from)}};
  } else if constexpr (kWords == 2) {
    const uint2 w = *static_cast<const uint2*>(from);
    return {{w.x, w.y}};
  } else {
    const uint4 w = *static_cast<const uint4*>(from);
    return {{w.x, w.y, w.z, w.w}};
  }
}
// Stores are written out: from 13.0 on nvcc takes some of the 128-bit ones apart, four instructions and four times the sectors.
TFCOMPRESS_DEVICE uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
template <int kWords>
TFCOMPRESS_DEVICE void StoreShared(void* to, const Words<kWords>& w) {
  if constexpr (kWords == 1) *static_cast<uint32_t*>(to) = w.v[0];
  if constexpr (kWords == 2) asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(SharedAddress(to)), "r"(w.v[0]), "r"(w.v[1]) : "memory");
  if constexpr (kWords == 4) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(SharedAddress(to)), "r"(w.v[0]), "r"(w.v[1]), "r"(w.v[2]), "r"(w.v[3]) : "memory");
  }
}
template <int kWords>
TFCOMPRESS_DEVICE void StoreGlobal(void* to, const Words<kWords>& w) {
  if constexpr (kWords == 1) *static_cast<uint32_t*>(to) = w.v[0];
  if constexpr (kWords == 2) asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(w.v[0]), "r"(w.v[1]) : "memory");
  if constexpr (kWords == 4) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(w.v[0]), "r"(w.v[1]), "r"(w.v[2]), "r"(w.v[3]) : "memory");
  }
}
// What this launch does not write.
template <typename T>
TFCOMPRESS_DEVICE T LoadReadOnly(const T* from) {
  return __ldg(from);
}
template <int kWords>
TFCOMPRESS_DEVICE Words<kWords> LoadWordsReadOnly(const void* from) {
  if constexpr (kWords == 1) {
    return {{__ldg(static_cast<const uint32_t*>(from))}};
  } else if constexpr (kWords == 2) {
    const uint2 w = __ldg(static_cast<const uint2*>(from));
    return {{w.x, w.y}};
  } else {
    const uint4 w = __ldg(static_cast<const uint4*>(from));
    return {{w.x, w.y, w.z, w.w}};
  }
}

// Asynchronous copies to shared memory. From 8.0 on cp.async: CopyAsync starts one of 16 bytes, of which the first `valid` come from memory and
// the rest become 0; CommitCopies closes a group; WaitCopies<n> waits until at most n groups of this thread are under way.
inline constexpr bool kHasCopyAsync = kCudaArch >= 80;
TFCOMPRESS_DEVICE void CopyAsync(void* to, const void* from, int valid) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from), "r"(valid) : "memory");
#endif
}
TFCOMPRESS_DEVICE void CommitCopies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kGroups>
TFCOMPRESS_DEVICE void WaitCopies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

// ---- Arithmetic ----------------------------------------------------------------------------------------------------------------------
// sum + the dot product of four signed and four unsigned bytes.
TFCOMPRESS_DEVICE int32_t Dot4(uint32_t signed_bytes, uint32_t unsigned_bytes, int32_t sum) {
  int32_t d;
  asm("dp4a.s32.u32 %0, %1, %2, %3;" : "=r"(d) : "r"(signed_bytes), "r"(unsigned_bytes), "r"(sum));
  return d;
}
// sum + the dot product of four signed and four signed bytes.
TFCOMPRESS_DEVICE int32_t Dot4Signed(uint32_t a, uint32_t b, int32_t sum) {
  int32_t d;
  asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(sum));
  return d;
}
// Byte i of the result is byte (selector >> 4 * i) & 7 of b:a.
TFCOMPRESS_DEVICE uint32_t BytePermute(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }
TFCOMPRESS_DEVICE int PopCount(uint32_t word) { return __popc(word); }
TFCOMPRESS_DEVICE float FusedMultiplyAdd(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// Four 8 x 8 matrices of 16 bits out of shared memory: lane l gives the address of row l % 8 of matrix l / 8; r[i] holds of matrix i the elements
// 2 * (l % 4) and the next of row l / 4.
TFCOMPRESS_DEVICE void LoadMatrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// c[16 x 8] += a[16 x 32] (unsigned bytes) * b[32 x 8] (signed bytes): the fragments of mma.m16n8k32, whose quarters are the operands of
// Turing's mma.m8n8k16. Lane l holds in a[i] the bytes k = 16 * (i / 2) + 4 * (l % 4) ... + 3 of row l / 4 + 8 * (i % 2), in b[i] the bytes
// k = 16 * i + 4 * (l % 4) ... + 3 of column l / 4, in c[i] row l / 4 + 8 * (i / 2), column 2 * (l % 4) + i % 2.
TFCOMPRESS_DEVICE void MultiplyAddMatrices(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
#define TFCOMPRESS_MMA_QUARTER(c0, c1, a0, b)                                                            \
  asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};" \
               : "+r"(c0), "+r"(c1)                                                                      \
               : "r"(a0), "r"(b))
  TFCOMPRESS_MMA_QUARTER(c[0], c[1], a[0], b0);
  TFCOMPRESS_MMA_QUARTER(c[2], c[3], a[1], b0);
  TFCOMPRESS_MMA_QUARTER(c[0], c[1], a[2], b1);
  TFCOMPRESS_MMA_QUARTER(c[2], c[3], a[3], b1);
#undef TFCOMPRESS_MMA_QUARTER
#endif
}

// The same with signed bytes on both sides.
TFCOMPRESS_DEVICE void MultiplyAddSignedMatrices(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
#define TFCOMPRESS_MMA_QUARTER(c0, c1, a0, b)                                                            \
  asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};" \
               : "+r"(c0), "+r"(c1)                                                                      \
               : "r"(a0), "r"(b))
  TFCOMPRESS_MMA_QUARTER(c[0], c[1], a[0], b0);
  TFCOMPRESS_MMA_QUARTER(c[2], c[3], a[1], b0);
  TFCOMPRESS_MMA_QUARTER(c[0], c[1], a[2], b1);
  TFCOMPRESS_MMA_QUARTER(c[2], c[3], a[3], b1);
#undef TFCOMPRESS_MMA_QUARTER
#endif
}

// c[16 x 8] += a[16 x 32 bytes] * b[32 bytes x 8] of bfloat16, 16 deep, or of TensorFloat-32, 8 deep; words lie as MultiplyAddMatrices' do. From 8.0 on:
// no kernel for 7.5 calls them.
inline constexpr bool kHasFloatMatrices = kCudaArch >= 80;
TFCOMPRESS_DEVICE void MultiplyAddBFloat16Matrices(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
TFCOMPRESS_DEVICE void MultiplyAddTensorFloatMatrices(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
// The bits of the nearest TensorFloat-32, 10 bits of mantissa.
TFCOMPRESS_DEVICE uint32_t ToTensorFloat(float value) {
  uint32_t bits = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
#endif
  return bits;
}

// c[16 x 8] += in how many bits rows of a [16 x 256 bits] and columns of b [256 bits x 8] differ, or from 9.0 on, which counts only those natively, are
// both set. The words of the fragments lie as MultiplyAddMatrices' do. 10.0 and later have no 1-bit tensor cores (the instructions are emulated
// there by 8 on bytes): no kernel for them calls this.
inline constexpr bool kHasSignMatrices = kCudaArch < 100;
inline constexpr bool kSignMatricesCountBoth = kCudaArch >= 90;
TFCOMPRESS_DEVICE void MultiplyAddSignMatrices(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1000
  asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 900
  asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define TFCOMPRESS_MMA_QUARTER(c0, c1, a0, b)                                                            \
  asm volatile("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc {%0, %1}, {%2}, {%3}, {%0, %1};" \
               : "+r"(c0), "+r"(c1)                                                                       \
               : "r"(a0), "r"(b))
  TFCOMPRESS_MMA_QUARTER(c[0], c[1], a[0], b0);
  TFCOMPRESS_MMA_QUARTER(c[2], c[3], a[1], b0);
  TFCOMPRESS_MMA_QUARTER(c[0], c[1], a[2], b1);
  TFCOMPRESS_MMA_QUARTER(c[2], c[3], a[3], b1);
#undef TFCOMPRESS_MMA_QUARTER
#endif
}

// ---- Launch --------------------------------------------------------------------------------------------------------------------------
// Runs kernel(arguments...) on `blocks` blocks of `threads` threads. Empty, or what is wrong.
template <typename... Parameters, typename... Arguments>
std::string LaunchKernel(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, void* stream,
                         Arguments&&... arguments) {
  constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;
  if (blocks > kMostBlocks) return std::string(name) + ": a launch must have fewer than 2^31 blocks; received " + std::to_string(blocks);
  cudaError_t error = cudaSuccess;
  constexpr int64_t kUnasked = 48 << 10;  // a kernel has to ask for more
  if (shared_bytes > kUnasked) {
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess) {
    kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes), static_cast<cudaStream_t>(stream)>>>(
        std::forward<Arguments>(arguments)...);
    error = cudaGetLastError();
  }
  return error == cudaSuccess ? "" : std::string(name) + ": " + cudaGetErrorString(error);
}

}  // namespace tfcompress

#endif  // TFCOMPRESS_CUDA_EMULATION
#endif  // TFCOMPRESS_BASE_CUDA_INTRINSICS_CUH_
