// Where the windows of a convolution lie, from an op's attributes.
#ifndef TFCOMPRESS_OPS_WINDOW_GEOMETRY_H_
#define TFCOMPRESS_OPS_WINDOW_GEOMETRY_H_

#include <string>

#include "absl/status/status.h"
#include "base/patches.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tfcompress {

// kernel_size, strides, dilations: two integers each; padding: 'valid', 'same' (as TensorFlow pads) or 'causal' (all in front).
class WindowGeometry {
 public:
  absl::Status Init(tensorflow::OpKernelConstruction* ctx, const char* op);
  // For x [batch, height, width, channels].
  Windows For(int64_t batch, int64_t height, int64_t width, int64_t channels) const;
  // The windows' number, or what overflows.
  static absl::Status Count(const char* op, const Windows& windows, int64_t* count);

 private:
  void Fit(int64_t size, Axis* axis) const;

  Windows windows_;
  std::string padding_;
};

}  // namespace tfcompress

#endif  // TFCOMPRESS_OPS_WINDOW_GEOMETRY_H_
