// The x86 intrinsics, real or emulated: with TFCOMPRESS_EMULATE_AVX512 the AVX-512 files compile against SIMDe (a test-only header
// library), so that their very source is tested on machines without AVX-512.
#ifndef TFCOMPRESS_BASE_X86_INTRINSICS_H_
#define TFCOMPRESS_BASE_X86_INTRINSICS_H_

#ifdef TFCOMPRESS_EMULATE_AVX512
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#define TFCOMPRESS_KEEP_ORDER(reg) \
  do {                             \
  } while (false)
#else
#include <immintrin.h>

// Makes the compiler compute `reg` here, in program order: it would otherwise compute many products before it adds the first, and spill.
#define TFCOMPRESS_KEEP_ORDER(reg) __asm__ volatile("" : "+v"(reg))
#endif

#endif  // TFCOMPRESS_BASE_X86_INTRINSICS_H_
