// AVX2.
#include "base/layer_norm-inl.h"

namespace tfcompress {

void LayerNormRowsAvx2(const LayerNormArgs& args, int64_t begin, int64_t end) { LayerNormRowsHere(args, begin, end); }

}  // namespace tfcompress
