// AVX-512.
#include "base/add-inl.h"

namespace tfcompress {

void AddRangeAvx512(const AddArgs& args, int64_t begin, int64_t end) { AddRangeHere(args, begin, end); }

}  // namespace tfcompress
