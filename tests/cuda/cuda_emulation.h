// Test-only: what base/cuda_intrinsics.cuh wraps, for a C++ compiler. Every CUDA thread is a fiber; one operating-system thread runs them.
//
// - Warps run in random order (seeded), each until all of its lanes wait or end: between two barriers any warp may be far ahead of any other.
// - A barrier is passed when every thread of the block has reached it, at the same place of the source. Threads that end or wait elsewhere are
//   reported, and so is a shuffle, ldmatrix or mma that some lanes do not reach.
// - Shared memory is one heap block of exactly the bytes asked for, filled with random bytes: AddressSanitizer reports what lies outside, and
//   what is read before it is written is different every time.
// - cp.async copies as late as allowed, when its group is waited for; until then the destination holds random bytes.
// - ldmatrix, mma and dp4a follow the fragment tables of the PTX ISA, element by element.
// - Faults can be planted: a barrier or a wait at one place of the source is skipped.
#ifndef TFCOMPRESS_TESTS_CUDA_CUDA_EMULATION_H_
#define TFCOMPRESS_TESTS_CUDA_CUDA_EMULATION_H_

#ifndef __x86_64__
#include <ucontext.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/types.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef TFCOMPRESS_EMULATED_ARCH
#define TFCOMPRESS_EMULATED_ARCH 80
#endif

#define TFCOMPRESS_GLOBAL(threads, blocks) void
#define TFCOMPRESS_DEVICE inline

namespace tfcompress {

inline constexpr int kCudaArch = TFCOMPRESS_EMULATED_ARCH;
inline constexpr bool kHasCopyAsync = kCudaArch >= 80;

template <int kWords>
struct alignas(4 * kWords) Words {
  uint32_t v[kWords];
};
using Words4 = Words<4>;

namespace emulation {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 256 << 10;

// A place of the source.
struct Site {
  const char* file;
  int line;
  // By address: fast, and enough to keep each place once for a translation unit.
  bool operator<(const Site& other) const { return line != other.line ? line < other.line : std::less<const char*>()(file, other.file); }
  bool operator==(const Site& other) const { return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0); }
  std::string ToString() const {
    const std::string path = file;
    return path.substr(path.rfind('/') + 1) + ":" + std::to_string(line);
  }
};

// What all lanes of a warp do together: reads 32 operands, writes 32 results.
using Collective = void (*)(const void* const* in, void* const* out);

struct Copy {
  char* to;
  const char* from;
  int valid;
};

enum class State { kReady, kAtBarrier, kInWarp, kEnded };

// Where a fiber, or the scheduler, goes on. On x86-64 a few instructions; swapcontext() takes two system calls, and under AddressSanitizer clears
// the shadow of the whole stack.
#ifdef __x86_64__
struct Context {
  void* stack_pointer = nullptr;
};
__attribute__((naked, noinline)) inline void SwitchStacks(void** /*from*/, void* /*to*/) {
  asm(R"(
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret)");
}
inline void SwitchContext(Context* from, Context* to) { SwitchStacks(&from->stack_pointer, to->stack_pointer); }
inline void MakeContext(Context* context, char* stack, size_t bytes, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15});
  top[-1] = nullptr;  // as if called from nowhere: the stack is 8 bytes off a multiple of 16
  top[-2] = reinterpret_cast<void*>(entry);
  std::fill(top - 8, top - 2, nullptr);  // the six registers
  context->stack_pointer = top - 8;
}
#else
struct Context {
  ucontext_t context;
};
inline void SwitchContext(Context* from, Context* to) { swapcontext(&from->context, &to->context); }
__attribute__((noinline)) inline void MakeContext(Context* context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context->context);
  context->context.uc_stack.ss_sp = stack;
  context->context.uc_stack.ss_size = bytes;
  context->context.uc_link = nullptr;
  makecontext(&context->context, entry, 0);
}
#endif

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  void* fake_stack = nullptr;
  State state = State::kEnded;
  Site site = {"", 0};
  Collective collective = nullptr;
  const void* in = nullptr;
  void* out = nullptr;
  std::vector<Copy> open_group;
  std::deque<std::vector<Copy>> groups;
};

struct Launch {
  std::string name;
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
};

struct Runtime {
  // For tests.
  std::mt19937_64 random{1};
  std::set<Site> barriers, waits;   // all that ran
  const Site* skipped = nullptr;    // the planted fault
  std::vector<Launch> launches;

  // Of the block that runs.
  std::vector<Fiber> fibers;
  Context scheduler;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  int threads = 0, current = 0;
  int64_t block = 0, blocks = 0;
  char* shared = nullptr;
  std::function<void()> body;
  std::string error;
};

inline Runtime runtime;

inline void FillRandom(void* p, size_t bytes) {
  static std::minstd_rand noise{12345};
  for (size_t i = 0; i < bytes; ++i) static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(noise() >> 8);
}

// From a fiber back to the scheduler, and back when the fiber is chosen again. `last`: never again.
inline void Yield(bool last = false) {
  Fiber& fiber = runtime.fibers[static_cast<size_t>(runtime.current)];
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &fiber.fake_stack, runtime.scheduler_stack, runtime.scheduler_stack_bytes);
#endif
  (void)last;
  SwitchContext(&fiber.context, &runtime.scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

inline void FiberMain() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &runtime.scheduler_stack, &runtime.scheduler_stack_bytes);
#endif
  runtime.body();
  runtime.fibers[static_cast<size_t>(runtime.current)].state = State::kEnded;
  Yield(true);
}

inline void Resume(int index) {
  Fiber& fiber = runtime.fibers[static_cast<size_t>(index)];
  runtime.current = index;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&runtime.scheduler_fake_stack, fiber.stack.get(), kStackBytes);
#endif
  SwitchContext(&runtime.scheduler, &fiber.context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(runtime.scheduler_fake_stack, nullptr, nullptr);
#endif
}

inline std::string Describe(int index) {
  const Fiber& fiber = runtime.fibers[static_cast<size_t>(index)];
  const char* const names[] = {"runs", "waits at the barrier", "waits for its warp", "has ended"};
  const std::string where = fiber.state == State::kAtBarrier || fiber.state == State::kInWarp ? " at " + fiber.site.ToString() : "";
  return "thread " + std::to_string(index) + " of block " + std::to_string(runtime.block) + " " + names[static_cast<int>(fiber.state)] + where;
}

// Releases a warp whose lanes have all reached the same collective.
inline void FinishCollective(int warp) {
  const void* in[kWarp];
  void* out[kWarp];
  Fiber* first = &runtime.fibers[static_cast<size_t>(warp * kWarp)];
  for (int lane = 0; lane < kWarp; ++lane) {
    if (first[lane].state != State::kInWarp || first[lane].collective != first->collective) return;
    in[lane] = first[lane].in;
    out[lane] = first[lane].out;
  }
  first->collective(in, out);
  for (int lane = 0; lane < kWarp; ++lane) first[lane].state = State::kReady;
}

inline void FinishBarrier() {
  for (int i = 0; i < runtime.threads; ++i) {
    const Fiber& fiber = runtime.fibers[static_cast<size_t>(i)];
    if (fiber.state != State::kAtBarrier || !(fiber.site == runtime.fibers[0].site)) return;
  }
  for (int i = 0; i < runtime.threads; ++i) runtime.fibers[static_cast<size_t>(i)].state = State::kReady;
}

inline void RunBlock(int64_t block) {
  Runtime& r = runtime;
  r.block = block;
  if (r.fibers.size() < static_cast<size_t>(r.threads)) r.fibers.resize(static_cast<size_t>(r.threads));
  for (int i = 0; i < r.threads; ++i) {
    Fiber& fiber = r.fibers[static_cast<size_t>(i)];
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    MakeContext(&fiber.context, fiber.stack.get(), kStackBytes, FiberMain);
    fiber.state = State::kReady;
    fiber.open_group.clear();
    fiber.groups.clear();
  }
  const int warps = r.threads / kWarp;
  std::vector<int> ready;
  for (;;) {
    ready.clear();
    int ended = 0;
    for (int w = 0; w < warps; ++w) {
      bool any = false;
      for (int lane = 0; lane < kWarp; ++lane) {
        const State state = r.fibers[static_cast<size_t>(w * kWarp + lane)].state;
        any |= state == State::kReady;
        ended += state == State::kEnded;
      }
      if (any) ready.push_back(w);
    }
    if (ready.empty()) {
      if (ended == r.threads) return;
      int waiting = 0;
      while (r.fibers[static_cast<size_t>(waiting)].state == State::kEnded) ++waiting;
      int other = 0;
      const auto differs = [&](int i) {
        const Fiber &a = r.fibers[static_cast<size_t>(i)], &b = r.fibers[static_cast<size_t>(waiting)];
        return a.state != b.state || !(a.site == b.site);
      };
      while (other + 1 < r.threads && !differs(other)) ++other;
      r.error = "not all threads reach the same place: " + Describe(waiting) + ", " + Describe(other);
      return;
    }
    const int warp = ready[r.random() % ready.size()];
    const bool up = r.random() % 2 == 0;
    for (int i = 0; i < kWarp; ++i) {
      const int index = warp * kWarp + (up ? i : kWarp - 1 - i);
      if (r.fibers[static_cast<size_t>(index)].state == State::kReady) Resume(index);
      if (!r.error.empty()) return;
    }
    FinishCollective(warp);
    FinishBarrier();
  }
}

inline void DoCollective(Collective collective, const void* in, void* out, const Site& site) {
  Fiber& fiber = runtime.fibers[static_cast<size_t>(runtime.current)];
  fiber.state = State::kInWarp;
  fiber.collective = collective;
  fiber.in = in;
  fiber.out = out;
  fiber.site = site;
  Yield();
}

inline void Complete(const std::vector<Copy>& group) {
  for (const Copy& copy : group) {
    std::memset(copy.to, 0, 16);
    std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.valid));
  }
}

inline void CheckAligned(const void* p, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % bytes == 0) return;
  std::printf("%s at a misaligned address, %s\n", what, Describe(runtime.current).c_str());
  std::abort();
}

}  // namespace emulation

// ---- What base/cuda_intrinsics.cuh declares --------------------------------------------------------------------------------------------
inline int ThreadIndex() { return emulation::runtime.current; }
inline int NonNegativeThreadIndex() { return ThreadIndex(); }
inline int ThreadIndexAgain() { return ThreadIndex(); }
inline int64_t BlockIndex() { return emulation::runtime.block; }
inline int64_t NumBlocks() { return emulation::runtime.blocks; }
inline char* SharedMemory() { return emulation::runtime.shared; }

inline void SyncThreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  using namespace emulation;  // NOLINT(google-build-using-namespace)
  const Site site = {file, line};
  runtime.barriers.insert(site);
  if (runtime.skipped != nullptr && *runtime.skipped == site) return;
  Fiber& fiber = runtime.fibers[static_cast<size_t>(runtime.current)];
  fiber.state = State::kAtBarrier;
  fiber.site = site;
  Yield();
}

template <typename T>
T ShuffleXor(T value, int lanes, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  struct In {
    T value;
    int lanes;
  };
  const In in = {value, lanes};
  T out{};
  emulation::DoCollective(
      [](const void* const* from, void* const* to) {
        for (int lane = 0; lane < emulation::kWarp; ++lane) {
          const int other = lane ^ static_cast<const In*>(from[lane])->lanes;
          *static_cast<T*>(to[lane]) = static_cast<const In*>(from[other])->value;
        }
      },
      &in, &out, {file, line});
  return out;
}

inline void SyncWarp(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const emulation::Site site = {file, line};
  emulation::runtime.barriers.insert(site);
  if (emulation::runtime.skipped != nullptr && *emulation::runtime.skipped == site) return;
  emulation::DoCollective([](const void* const*, void* const*) {}, nullptr, nullptr, site);
}

inline uint32_t Ballot(bool predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  uint32_t out = 0;
  emulation::DoCollective(
      [](const void* const* from, void* const* to) {
        uint32_t bits = 0;
        for (int lane = 0; lane < emulation::kWarp; ++lane) bits |= static_cast<uint32_t>(*static_cast<const bool*>(from[lane])) << lane;
        for (int lane = 0; lane < emulation::kWarp; ++lane) *static_cast<uint32_t*>(to[lane]) = bits;
      },
      &predicate, &out, {file, line});
  return out;
}

inline Words4 LoadStreaming(const void* from) { return *static_cast<const Words4*>(from); }
template <typename T>
T LoadReadOnly(const T* from) {
  return *from;
}

template <int kWords>
Words<kWords> LoadWords(const void* from) {
  return *static_cast<const Words<kWords>*>(from);
}
template <int kWords>
Words<kWords> LoadWordsReadOnly(const void* from) {
  return *static_cast<const Words<kWords>*>(from);
}
template <int kWords>
void StoreShared(void* to, const Words<kWords>& words) {
  *static_cast<Words<kWords>*>(to) = words;
}
template <int kWords>
void StoreGlobal(void* to, const Words<kWords>& words) {
  *static_cast<Words<kWords>*>(to) = words;
}

inline void CopyAsync(void* to, const void* from, int valid) {
  emulation::CheckAligned(to, 16, "cp.async to");
  emulation::CheckAligned(from, 16, "cp.async from");
  emulation::FillRandom(to, 16);
  auto& runtime = emulation::runtime;
  runtime.fibers[static_cast<size_t>(runtime.current)].open_group.push_back({static_cast<char*>(to), static_cast<const char*>(from), valid});
}
inline void CommitCopies() {
  if (!kHasCopyAsync) return;
  auto& fiber = emulation::runtime.fibers[static_cast<size_t>(emulation::runtime.current)];
  fiber.groups.push_back(std::move(fiber.open_group));
  fiber.open_group.clear();
}
template <int kGroups>
void WaitCopies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!kHasCopyAsync) return;
  auto& runtime = emulation::runtime;
  const emulation::Site site = {file, line};
  runtime.waits.insert(site);
  if (runtime.skipped != nullptr && *runtime.skipped == site) return;
  auto& groups = runtime.fibers[static_cast<size_t>(runtime.current)].groups;
  while (groups.size() > static_cast<size_t>(kGroups)) {
    emulation::Complete(groups.front());
    groups.pop_front();
  }
}

inline int32_t Dot4(uint32_t signed_bytes, uint32_t unsigned_bytes, int32_t sum) {
  for (int i = 0; i < 32; i += 8) {
    sum += static_cast<int8_t>(signed_bytes >> i) * static_cast<int32_t>(static_cast<uint8_t>(unsigned_bytes >> i));
  }
  return sum;
}
inline int32_t Dot4Signed(uint32_t a, uint32_t b, int32_t sum) {
  for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return sum;
}
inline uint32_t BytePermute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (uint32_t i = 0; i < 4; ++i) result |= static_cast<uint32_t>(bytes >> (selector >> (4 * i) & 7) * 8 & 0xff) << (8 * i);
  return result;
}
inline int PopCount(uint32_t word) { return __builtin_popcount(word); }
inline float FusedMultiplyAdd(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// PTX ISA, "Warp-level matrix load instruction: ldmatrix": with .x4 the addresses of matrix i come from lanes 8 * i ... 8 * i + 7; a lane gets of
// each matrix the 32 bits lane % 4 of row lane / 4.
inline void LoadMatrices(uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::CheckAligned(row, 16, "ldmatrix");
  emulation::DoCollective(
      [](const void* const* from, void* const* to) {
        for (int lane = 0; lane < emulation::kWarp; ++lane) {
          for (int i = 0; i < 4; ++i) {
            static_cast<uint32_t*>(to[lane])[i] = static_cast<const uint32_t*>(from[8 * i + lane / 4])[lane % 4];
          }
        }
      },
      row, r, {file, line});
}

namespace emulation {
struct MmaOperands {
  const uint32_t* a;
  const uint32_t* b;
  int32_t* c;
};
inline int32_t SignedByte(uint32_t word, int i) { return static_cast<int8_t>(word >> (8 * i)); }
inline int32_t UnsignedByte(uint32_t word, int i) { return static_cast<uint8_t>(word >> (8 * i)); }

// PTX ISA, "Matrix fragments for mma.m16n8k32" with 8-bit operands, element by element.
template <int32_t (*kByteOfA)(uint32_t, int)>
void Mma16832(const void* const* in, void* const*) {
  int32_t a[16][32], b[32][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* o = static_cast<const MmaOperands*>(in[lane]);
    const int group = lane / 4, in_group = lane % 4;
    for (int i = 0; i < 16; ++i) {
      const int row = i < 4 || (i >= 8 && i < 12) ? group : group + 8;
      const int column = in_group * 4 + (i & 3) + (i < 8 ? 0 : 16);
      a[row][column] = kByteOfA(o->a[i / 4], i % 4);
    }
    for (int i = 0; i < 8; ++i) b[in_group * 4 + (i & 3) + (i < 4 ? 0 : 16)][group] = SignedByte(o->b[i / 4], i % 4);
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? lane / 4 : lane / 4 + 8, column = lane % 4 * 2 + (i & 1);
      int32_t& c = static_cast<const MmaOperands*>(in[lane])->c[i];
      for (int k = 0; k < 32; ++k) c += a[row][k] * b[k][column];
    }
  }
}

// PTX ISA, "Matrix fragments for mma.m8n8k16".
template <int32_t (*kByteOfA)(uint32_t, int)>
void Mma8816(const void* const* in, void* const*) {
  int32_t a[8][16], b[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* o = static_cast<const MmaOperands*>(in[lane]);
    for (int i = 0; i < 4; ++i) {
      a[lane / 4][lane % 4 * 4 + i] = kByteOfA(o->a[0], i);
      b[lane % 4 * 4 + i][lane / 4] = SignedByte(o->b[0], i);
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 2; ++i) {
      int32_t& c = static_cast<const MmaOperands*>(in[lane])->c[i];
      for (int k = 0; k < 16; ++k) c += a[lane / 4][k] * b[k][lane % 4 * 2 + i];
    }
  }
}
}  // namespace emulation

namespace emulation {
template <int32_t (*kByteOfA)(uint32_t, int)>
void MultiplyAddBytes(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Site& site) {
  const uint32_t b[2] = {b0, b1};
  if (kCudaArch >= 80) {
    const MmaOperands operands = {a, b, c};
    DoCollective(Mma16832<kByteOfA>, &operands, nullptr, site);
    return;
  }
  for (int i = 0; i < 4; ++i) {
    const MmaOperands operands = {&a[i], &b[i / 2], &c[i % 2 * 2]};
    DoCollective(Mma8816<kByteOfA>, &operands, nullptr, site);
  }
}

struct FloatMmaOperands {
  const uint32_t* a;
  const uint32_t* b;
  float* c;
};
// PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type" (two bfloat16 in a word) and "mma.m16n8k8" (.tf32), element by element. Of a
// TensorFloat-32 the lowest 13 bits are not looked at.
template <int kInWord>
void FloatMma(const void* const* in, void* const*) {
  constexpr int kDepth = 8 * kInWord;
  float a[16][kDepth], b[kDepth][8];
  const auto element = [](uint32_t word, int i) {
    const uint32_t bits = kInWord == 2 ? word >> (16 * i) << 16 : word & 0xffffe000u;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  };
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* o = static_cast<const FloatMmaOperands*>(in[lane]);
    const int group = lane / 4, in_group = lane % 4;
    for (int i = 0; i < 4; ++i) {
      for (int e = 0; e < kInWord; ++e) a[group + 8 * (i % 2)][(in_group + i / 2 * 4) * kInWord + e] = element(o->a[i], e);
    }
    for (int i = 0; i < 2; ++i) {
      for (int e = 0; e < kInWord; ++e) b[(in_group + i * 4) * kInWord + e][group] = element(o->b[i], e);
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? lane / 4 : lane / 4 + 8, column = lane % 4 * 2 + (i & 1);
      float& c = static_cast<const FloatMmaOperands*>(in[lane])->c[i];
      for (int k = 0; k < kDepth; ++k) c += a[row][k] * b[k][column];
    }
  }
}
}  // namespace emulation

inline void MultiplyAddMatrices(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const char* file = __builtin_FILE(),
                                int line = __builtin_LINE()) {
  emulation::MultiplyAddBytes<emulation::UnsignedByte>(c, a, b0, b1, {file, line});
}
inline void MultiplyAddSignedMatrices(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const char* file = __builtin_FILE(),
                                      int line = __builtin_LINE()) {
  emulation::MultiplyAddBytes<emulation::SignedByte>(c, a, b0, b1, {file, line});
}

inline constexpr bool kHasFloatMatrices = kCudaArch >= 80;
inline void MultiplyAddBFloat16Matrices(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const char* file = __builtin_FILE(),
                                        int line = __builtin_LINE()) {
  const uint32_t b[2] = {b0, b1};
  const emulation::FloatMmaOperands operands = {a, b, c};
  emulation::DoCollective(emulation::FloatMma<2>, &operands, nullptr, {file, line});
}
inline void MultiplyAddTensorFloatMatrices(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const char* file = __builtin_FILE(),
                                           int line = __builtin_LINE()) {
  const uint32_t b[2] = {b0, b1};
  const emulation::FloatMmaOperands operands = {a, b, c};
  emulation::DoCollective(emulation::FloatMma<1>, &operands, nullptr, {file, line});
}
// To nearest, ties away from zero. The lowest bits are noise, as on a device, where they are not said to be anything.
inline uint32_t ToTensorFloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return (finite ? (bits + 0x1000u) & 0xffffe000u : bits) | (finite ? 0x0a5au : 0u);
}

inline constexpr bool kHasSignMatrices = kCudaArch < 100;
inline constexpr bool kSignMatricesCountBoth = kCudaArch >= 90;

namespace emulation {
inline bool BitOf(uint32_t word, int i) { return (word >> i & 1) != 0; }
inline int32_t CountOf(const bool* a, const bool* b, int bits) {
  int32_t count = 0;
  for (int k = 0; k < bits; ++k) count += kSignMatricesCountBoth ? a[k] && b[k] : a[k] != b[k];
  return count;
}

// PTX ISA, "Matrix fragments for mma.m16n8k256", bit by bit.
inline void Mma168256(const void* const* in, void* const*) {
  static bool a[16][256], b[8][256];  // b by columns
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* o = static_cast<const MmaOperands*>(in[lane]);
    const int group = lane / 4, in_group = lane % 4;
    for (int i = 0; i < 128; ++i) {
      const int row = i < 32 || (i >= 64 && i < 96) ? group : group + 8;
      const int column = in_group * 32 + (i & 31) + (i < 64 ? 0 : 128);
      a[row][column] = BitOf(o->a[i / 32], i % 32);
    }
    for (int i = 0; i < 64; ++i) b[group][in_group * 32 + (i & 31) + (i < 32 ? 0 : 128)] = BitOf(o->b[i / 32], i % 32);
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? lane / 4 : lane / 4 + 8, column = lane % 4 * 2 + (i & 1);
      static_cast<const MmaOperands*>(in[lane])->c[i] += CountOf(a[row], b[column], 256);
    }
  }
}

// PTX ISA, "Matrix fragments for mma.m8n8k128".
inline void Mma88128(const void* const* in, void* const*) {
  static bool a[8][128], b[8][128];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* o = static_cast<const MmaOperands*>(in[lane]);
    for (int i = 0; i < 32; ++i) {
      a[lane / 4][lane % 4 * 32 + i] = BitOf(o->a[0], i);
      b[lane / 4][lane % 4 * 32 + i] = BitOf(o->b[0], i);
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 2; ++i) static_cast<const MmaOperands*>(in[lane])->c[i] += CountOf(a[lane / 4], b[lane % 4 * 2 + i], 128);
  }
}
}  // namespace emulation

inline void MultiplyAddSignMatrices(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const char* file = __builtin_FILE(),
                                    int line = __builtin_LINE()) {
  using emulation::MmaOperands;
  const uint32_t b[2] = {b0, b1};
  if (kCudaArch >= 80) {
    const MmaOperands operands = {a, b, c};
    emulation::DoCollective(emulation::Mma168256, &operands, nullptr, {file, line});
    return;
  }
  for (int i = 0; i < 4; ++i) {
    const MmaOperands operands = {&a[i], &b[i / 2], &c[i % 2 * 2]};
    emulation::DoCollective(emulation::Mma88128, &operands, nullptr, {file, line});
  }
}

template <typename... Parameters, typename... Arguments>
std::string LaunchKernel(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes, void* stream,
                         Arguments&&... arguments) {
  auto& runtime = emulation::runtime;
  if (stream == nullptr) return std::string(name) + ": launched on the default stream";
  runtime.launches.push_back({name, blocks, threads, shared_bytes});
  if (blocks < 1 || threads % emulation::kWarp != 0 || threads > 1024) return std::string(name) + ": invalid configuration";
  runtime.threads = threads;
  runtime.blocks = blocks;
  runtime.error.clear();
  runtime.body = [&] { kernel(arguments...); };
  std::vector<int64_t> order(static_cast<size_t>(blocks));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  std::shuffle(order.begin(), order.end(), runtime.random);
  for (const int64_t block : order) {
    void* shared = nullptr;
    if (posix_memalign(&shared, 128, static_cast<size_t>(std::max<int64_t>(shared_bytes, 1))) != 0) std::abort();
    emulation::FillRandom(shared, static_cast<size_t>(shared_bytes));
    runtime.shared = static_cast<char*>(shared);
    emulation::RunBlock(block);
    std::free(shared);
    if (!runtime.error.empty()) return std::string(name) + ": " + runtime.error;
  }
  return "";
}

}  // namespace tfcompress

#endif  // TFCOMPRESS_TESTS_CUDA_CUDA_EMULATION_H_
