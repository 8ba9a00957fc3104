// The intrinsics of AArch64, and what they cannot say.
#ifndef TFCOMPRESS_BASE_ARM_INTRINSICS_H_
#define TFCOMPRESS_BASE_ARM_INTRINSICS_H_

#include <arm_neon.h>

#include "base/types.h"

// Makes the compiler compute `reg` here, in program order: it would otherwise compute many products before it adds the first, and spill.
#define TFCOMPRESS_KEEP_ORDER(reg) __asm__ volatile("" : "+w"(reg))

namespace tfcompress {
namespace {

// The 4 bytes at `p` in lane 0, zeros in the others: for instructions that multiply by a lane. A load that fills all lanes (ld1r) takes an
// issue slot of the vector units too, which are what tiles keep busy; compilers turn a broadcast whose lane 0 is used into just that load.
TFCOMPRESS_INLINE uint8x16_t LoadLane0(const void* p) {
  struct Bytes {
    char of[4];
  };
  uint8x16_t v;
  __asm__("ldr %s0, %1" : "=w"(v) : "m"(*static_cast<const Bytes*>(p)));
  return v;
}

// The same for 2 bytes, with zeros above them.
TFCOMPRESS_INLINE uint8x16_t LoadHalfOfLane0(const void* p) {
  struct Bytes {
    char of[2];
  };
  uint8x16_t v;
  __asm__("ldr %h0, %1" : "=w"(v) : "m"(*static_cast<const Bytes*>(p)));
  return v;
}

}  // namespace
}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_ARM_INTRINSICS_H_
