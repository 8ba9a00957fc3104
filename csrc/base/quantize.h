// What is known of a row of quantised activations.
#ifndef TFCOMPRESS_BASE_QUANTIZE_H_
#define TFCOMPRESS_BASE_QUANTIZE_H_

#include <cstdint>
#include <string>

namespace tfcompress {

struct RowScale {
  float scale;  // NaN voids the row
  int32_t sum;  // of the quantised values
};

// The range of a given x_scale: its inverse is finite and no product is a denormal.
inline constexpr float kLeastXScale = 0x1p-110f;
inline constexpr float kMostXScale = 0x1p+100f;

// Empty, or what is wrong with a given x_scale.
std::string CheckXScale(float x_scale);

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_QUANTIZE_H_
