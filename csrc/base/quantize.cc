#include "base/quantize.h"

namespace tfcompress {

std::string CheckXScale(float x_scale) {
  if (x_scale >= kLeastXScale && x_scale <= kMostXScale) return "";
  return "x_scale must be a finite number of at least 2^-110 and at most 2^100; received " + std::to_string(x_scale);
}

}  // namespace tfcompress
