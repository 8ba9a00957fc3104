// Which instruction-set tiers this CPU runs, and which one is in force.
#ifndef TFCOMPRESS_BASE_CPU_H_
#define TFCOMPRESS_BASE_CPU_H_

#include <cstdint>
#include <string>
#include <vector>

// The architecture that is compiled for decides which tiers there are; CMakeLists.txt has the same two lists.
#if defined(__x86_64__)
#define TFCOMPRESS_HAVE_X86_TIERS 1
#elif defined(__aarch64__)
#define TFCOMPRESS_HAVE_ARM_TIERS 1
#endif

namespace tfcompress {

// In ascending order: a CPU (and operating system) that runs a tier runs all tiers before it.
enum class Tier : int {
  kPortable,    // any CPU
#if defined(TFCOMPRESS_HAVE_X86_TIERS)
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // + AVX-512 F, BW, VL, DQ
  kAvx512Vnni,  // + AVX-512 VNNI
  kAvx512Vbmi,  // + AVX-512 VBMI and VPOPCNTDQ (Ice Lake and later)
  kAvx512Bf16,  // + AVX-512 BF16 (Zen 4, Sapphire Rapids and later)
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)
  kNeon,     // Advanced SIMD, which every AArch64 CPU has
  kDotProd,  // + sdot and udot (Cortex-A76, Neoverse N1 and later)
#endif
  kCount
};

inline constexpr const char* kTierNames[] = {
    "portable",
#if defined(TFCOMPRESS_HAVE_X86_TIERS)
    "avx2",     "avx512", "avx512vnni", "avx512vbmi", "avx512bf16",
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)
    "neon",     "dotprod",
#endif
};
static_assert(sizeof(kTierNames) / sizeof(kTierNames[0]) == static_cast<int>(Tier::kCount), "every tier has a name");

// The highest tier that this CPU and operating system run. Found once.
Tier DetectedTier();

// The tier in force: DetectedTier(), capped by the environment variable TFCOMPRESS_ISA (a tier's name). Read once, at first use.
// An unknown name leaves `*error` non-empty; the result is then DetectedTier(). `error` may be null.
Tier ActiveTier(std::string* error = nullptr);

struct CpuInfo {
  std::string vendor;
  std::string model_name;
  std::vector<std::string> features;  // the ones that matter to this library
  int num_cpus = 1;                   // that this process may run on
  int64_t l1d_bytes = 0;              // 0 where unknown
  int64_t l2_bytes = 0;
  int64_t l3_bytes = 0;
};
CpuInfo GetCpuInfo();

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_CPU_H_
