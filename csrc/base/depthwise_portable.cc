// Any CPU: registers of 128 bits, which the baselines of x86-64 and AArch64 have.
#include "base/depthwise-inl.h"

namespace tfcompress {

void DepthwiseRowsPortable(const DepthwiseArgs& args, int64_t begin, int64_t end) { DepthwiseRowsHere<4>(args, begin, end); }

}  // namespace tfcompress
