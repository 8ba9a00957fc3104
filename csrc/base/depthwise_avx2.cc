// AVX2: registers of eight floats; 8 sums, 2 weights, 1 input.
#include "base/depthwise-inl.h"

namespace tfcompress {

void DepthwiseRowsAvx2(const DepthwiseArgs& args, int64_t begin, int64_t end) { DepthwiseRowsHere<8>(args, begin, end); }

}  // namespace tfcompress
