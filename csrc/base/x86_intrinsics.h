// The x86 intrinsics, real or emulated: with TFCOMPRESS_EMULATE_AVX512 the AVX-512 files compile against SIMDe (a test-only header
// library), so that their very source is tested on machines without AVX-512.
#ifndef TFCOMPRESS_BASE_X86_INTRINSICS_H_
#define TFCOMPRESS_BASE_X86_INTRINSICS_H_

#ifdef TFCOMPRESS_EMULATE_AVX512
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

// What SIMDe 0.8.2 lacks, aliased as it aliases the rest.
static inline __m512i EmulatedWiden8To16(__m256i a) {
  unsigned char from[32];
  unsigned short to[32];
  __builtin_memcpy(from, &a, sizeof(from));
  for (int i = 0; i < 32; ++i) to[i] = from[i];
  return _mm512_loadu_si512(to);
}
static inline __m512i EmulatedWiden8To32(__m128i a) {
  unsigned char from[16];
  unsigned to[16];
  __builtin_memcpy(from, &a, sizeof(from));
  for (int i = 0; i < 16; ++i) to[i] = from[i];
  return _mm512_loadu_si512(to);
}
#undef _mm512_cvtepu8_epi16
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi16(a) EmulatedWiden8To16(a)
#define _mm512_cvtepu8_epi32(a) EmulatedWiden8To32(a)

#define TFCOMPRESS_KEEP_ORDER(reg) \
  do {                             \
  } while (false)
#else
#include <immintrin.h>

// Makes the compiler compute `reg` here, in program order: it would otherwise compute many products before it adds the first, and spill.
#define TFCOMPRESS_KEEP_ORDER(reg) __asm__ volatile("" : "+v"(reg))
#endif

#endif  // TFCOMPRESS_BASE_X86_INTRINSICS_H_
