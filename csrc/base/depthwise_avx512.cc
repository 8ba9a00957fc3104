// AVX-512: registers of sixteen floats.
#include "base/depthwise-inl.h"

namespace tfcompress {

void DepthwiseRowsAvx512(const DepthwiseArgs& args, int64_t begin, int64_t end) { DepthwiseRowsHere<16>(args, begin, end); }

}  // namespace tfcompress
