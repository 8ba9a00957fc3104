// AVX2: eight numbers are widened, converted and scaled at a time.
#include "formats/int8/lookup-inl.h"

namespace tfcompress::int8 {

int64_t LookUpRowsAvx2(const LookupArgs& args, int64_t begin, int64_t end) { return LookUpRowsHere(args, begin, end); }

}  // namespace tfcompress::int8
