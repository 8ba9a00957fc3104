// Any CPU.
#include "base/add-inl.h"

namespace tfcompress {

void AddRangePortable(const AddArgs& args, int64_t begin, int64_t end) { AddRangeHere(args, begin, end); }

}  // namespace tfcompress
