#include "base/cpu.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#if defined(TFCOMPRESS_HAVE_X86_TIERS)
#include <cpuid.h>
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace tfcompress {
namespace {

#if defined(TFCOMPRESS_HAVE_X86_TIERS)

struct X86Features {
  bool avx2 = false, fma = false, f16c = false;
  bool avx512f = false, avx512bw = false, avx512vl = false, avx512dq = false;
  bool avx512vnni = false, avx512vbmi = false, avx512vpopcntdq = false, avx512bf16 = false;
};

uint64_t ReadXcr0() {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<uint64_t>(hi) << 32) | lo;
}

X86Features ReadFeatures() {
  X86Features f;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool osxsave = (c >> 27) & 1;
  if (!osxsave) return f;
  // The operating system must save the registers too: XCR0 bits 1-2 for ymm, 5-7 for opmask and zmm.
  const uint64_t xcr0 = ReadXcr0();
  const bool os_ymm = (xcr0 & 0x6) == 0x6;
  const bool os_zmm = (xcr0 & 0xe6) == 0xe6;
  if (!os_ymm) return f;
  f.fma = (c >> 12) & 1;
  f.f16c = (c >> 29) & 1;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  const unsigned max_subleaf = a;
  f.avx2 = (b >> 5) & 1;
  if (!os_zmm) return f;
  f.avx512f = (b >> 16) & 1;
  f.avx512dq = (b >> 17) & 1;
  f.avx512bw = (b >> 30) & 1;
  f.avx512vl = (b >> 31) & 1;
  f.avx512vbmi = (c >> 1) & 1;
  f.avx512vnni = (c >> 11) & 1;
  f.avx512vpopcntdq = (c >> 14) & 1;
  if (max_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx512bf16 = (a >> 5) & 1;
  return f;
}

Tier Detect() {
  const X86Features f = ReadFeatures();
  if (!(f.avx2 && f.fma && f.f16c)) return Tier::kPortable;
  if (!(f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq)) return Tier::kAvx2;
  if (!f.avx512vnni) return Tier::kAvx512;
  if (!(f.avx512vbmi && f.avx512vpopcntdq)) return Tier::kAvx512Vnni;
  return f.avx512bf16 ? Tier::kAvx512Bf16 : Tier::kAvx512Vbmi;
}

#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)

struct ArmFeature {
  const char* name;  // as in /proc/cpuinfo
  bool present;
};

// What the kernel says that this CPU has and that it lets programs use.
std::vector<ArmFeature> ReadFeatures() {
#if defined(__linux__)
  // Bits of Linux's ABI: the headers that wheels are built with are older than some of them.
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  const auto bit = [](unsigned long word, int index) { return (word >> index & 1) != 0; };
  return {{"asimd", bit(hwcap, 1)}, {"asimdhp", bit(hwcap, 10)}, {"asimddp", bit(hwcap, 20)},
          {"sve", bit(hwcap, 22)},  {"i8mm", bit(hwcap2, 13)},   {"bf16", bit(hwcap2, 14)}};
#else
  return {{"asimd", true}};
#endif
}

Tier Detect() {
  for (const ArmFeature& feature : ReadFeatures()) {
    if (feature.present && std::strcmp(feature.name, "asimddp") == 0) return Tier::kDotProd;
  }
  return Tier::kNeon;  // a part of the architecture
}

// The main identification register as Linux shows it, or 0.
uint64_t ReadMidr() {
  std::ifstream file("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1");
  uint64_t midr = 0;
  return file >> std::hex >> midr ? midr : 0;
}

// The names of Arm's own cores that servers and boards have; others are told by their numbers.
std::string ModelName(uint64_t midr) {
  const uint64_t implementer = midr >> 24 & 0xff, part = midr >> 4 & 0xfff;
  const struct {
    uint64_t part;
    const char* name;
  } table[] = {{0xd03, "Cortex-A53"}, {0xd05, "Cortex-A55"},  {0xd07, "Cortex-A57"},  {0xd08, "Cortex-A72"},  {0xd09, "Cortex-A73"},
               {0xd0a, "Cortex-A75"}, {0xd0b, "Cortex-A76"},  {0xd0c, "Neoverse-N1"}, {0xd40, "Neoverse-V1"}, {0xd49, "Neoverse-N2"},
               {0xd4f, "Neoverse-V2"}};
  for (const auto& row : table) {
    if (implementer == 0x41 && part == row.part) return row.name;
  }
  char numbers[64];
  std::snprintf(numbers, sizeof(numbers), "implementer 0x%02x part 0x%03x", static_cast<unsigned>(implementer), static_cast<unsigned>(part));
  return numbers;
}

#else

Tier Detect() { return Tier::kPortable; }

#endif

struct Choice {
  Tier tier;
  std::string error;
};

Choice Choose() {
  const Tier detected = DetectedTier();
  const char* cap = std::getenv("TFCOMPRESS_ISA");
  if (cap == nullptr || *cap == '\0') return {detected, ""};
  for (int t = 0; t < static_cast<int>(Tier::kCount); ++t) {
    if (std::strcmp(cap, kTierNames[t]) == 0) {
      return {t < static_cast<int>(detected) ? static_cast<Tier>(t) : detected, ""};
    }
  }
  std::string names;
  for (const char* name : kTierNames) names += std::string(names.empty() ? "" : ", ") + name;
  return {detected, "the environment variable TFCOMPRESS_ISA must be one of " + names + "; received '" + cap + "'."};
}

// Linux's view of the first CPU's data or unified cache of a level; glibc's sysconf reports the L3 of all core complexes together.
int64_t CacheBytes(int level) {
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    std::ifstream level_file(folder + "level"), type_file(folder + "type"), size_file(folder + "size");
    int found_level = 0;
    std::string type;
    int64_t kibibytes = 0;
    if (!(level_file >> found_level) || !(type_file >> type) || !(size_file >> kibibytes)) continue;  // the size ends in K
    if (found_level == level && type != "Instruction") return kibibytes << 10;
  }
  return 0;
}

}  // namespace

Tier DetectedTier() {
  static const Tier tier = Detect();
  return tier;
}

Tier ActiveTier(std::string* error) {
  static const Choice choice = Choose();
  if (error != nullptr) *error = choice.error;
  return choice.tier;
}

CpuInfo GetCpuInfo() {
  CpuInfo info;
#if defined(__linux__)
  cpu_set_t set;
  info.num_cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
#else
  info.num_cpus = static_cast<int>(std::thread::hardware_concurrency());
#endif
  info.l1d_bytes = CacheBytes(1);
  info.l2_bytes = CacheBytes(2);
  info.l3_bytes = CacheBytes(3);
#if defined(TFCOMPRESS_HAVE_X86_TIERS)
  unsigned a, b, c, d;
  if (__get_cpuid(0, &a, &b, &c, &d)) {
    char vendor[13] = {};
    std::memcpy(vendor, &b, 4);
    std::memcpy(vendor + 4, &d, 4);
    std::memcpy(vendor + 8, &c, 4);
    info.vendor = vendor;
  }
  char brand[49] = {};
  for (unsigned leaf = 0; leaf < 3; ++leaf) {
    if (!__get_cpuid(0x80000002u + leaf, &a, &b, &c, &d)) break;
    const unsigned words[4] = {a, b, c, d};
    std::memcpy(brand + 16 * leaf, words, 16);
  }
  info.model_name = brand;
  const X86Features f = ReadFeatures();
  const struct {
    const char* name;
    bool present;
  } table[] = {{"avx2", f.avx2},           {"fma", f.fma},
               {"f16c", f.f16c},           {"avx512f", f.avx512f},
               {"avx512bw", f.avx512bw},   {"avx512vl", f.avx512vl},
               {"avx512dq", f.avx512dq},   {"avx512vnni", f.avx512vnni},
               {"avx512vbmi", f.avx512vbmi}, {"avx512vpopcntdq", f.avx512vpopcntdq},
               {"avx512bf16", f.avx512bf16}};
  for (const auto& row : table) {
    if (row.present) info.features.push_back(row.name);
  }
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)
  const uint64_t midr = ReadMidr();
  if (midr != 0) {
    info.vendor = midr >> 24 == 0x41 ? "ARM" : "";
    info.model_name = ModelName(midr);
  }
  for (const ArmFeature& feature : ReadFeatures()) {
    if (feature.present) info.features.push_back(feature.name);
  }
#endif
  return info;
}

}  // namespace tfcompress
