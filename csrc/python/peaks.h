// The limits of this machine, measured: what a benchmark's figures are a share of.
#ifndef TFCOMPRESS_PYTHON_PEAKS_H_
#define TFCOMPRESS_PYTHON_PEAKS_H_

#include "base/cpu.h"
#include "base/parallel.h"

namespace tfcompress {

// All threads of the pool together; the best of several short bursts. An operation is one multiplication or one addition.
struct Peaks {
  double float32_gflops = 0;  // fused multiply-add, registers only
  double int8_gops = 0;       // the tier's exact 8-bit dot product, registers only
  double binary_gops = 0;     // exclusive or, count of bits and addition, registers only: two operations a bit
  double l2_read_gbs = 0;     // each thread reads 192 KiB of its own
  double dram_read_gbs = 0;   // each thread reads 128 MiB of its own
};
Peaks MeasurePeaks(Tier tier, ThreadPool* pool);

// Loops that an instruction-set file supplies. Each runs `iterations` rounds and returns the operations (or bytes) done.
struct PeakLoops {
  double (*float32)(long iterations);
  double (*int8)(long iterations);
  double (*binary)(long iterations);
  double (*read)(const char* bytes, long count, long iterations);
};
const PeakLoops& PortablePeakLoops();
#ifdef TFCOMPRESS_HAVE_X86_TIERS
const PeakLoops& Avx2PeakLoops();
const PeakLoops& Avx512PeakLoops();
const PeakLoops& Avx512VnniPeakLoops();
const PeakLoops& Avx512VbmiPeakLoops();
#elif defined(TFCOMPRESS_HAVE_ARM_TIERS)
const PeakLoops& NeonPeakLoops();
const PeakLoops& DotProdPeakLoops();
#endif

}  // namespace tfcompress

#endif  // TFCOMPRESS_PYTHON_PEAKS_H_
