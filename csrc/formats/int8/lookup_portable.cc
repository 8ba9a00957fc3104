// Any CPU; on AArch64 compilers use Advanced SIMD, which is its baseline.
#include "formats/int8/lookup-inl.h"

namespace tfcompress::int8 {

int64_t LookUpRowsPortable(const LookupArgs& args, int64_t begin, int64_t end) { return LookUpRowsHere(args, begin, end); }

}  // namespace tfcompress::int8
