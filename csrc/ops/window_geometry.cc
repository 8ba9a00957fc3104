#include "ops/window_geometry.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tfcompress {
namespace {

constexpr int64_t kLargest = int64_t{1} << 20;

}  // namespace

absl::Status WindowGeometry::Init(tensorflow::OpKernelConstruction* ctx, const char* op) {
  std::vector<int64_t> kernel, strides, dilations;
  TF_RETURN_IF_ERROR(ctx->GetAttr("kernel_size", &kernel));
  TF_RETURN_IF_ERROR(ctx->GetAttr("strides", &strides));
  TF_RETURN_IF_ERROR(ctx->GetAttr("dilations", &dilations));
  TF_RETURN_IF_ERROR(ctx->GetAttr("padding", &padding_));
  Axis* axes[] = {&windows_.h, &windows_.w};
  for (const auto* list : {&kernel, &strides, &dilations}) {
    if (list->size() != 2 || (*list)[0] < 1 || (*list)[1] < 1 || (*list)[0] > kLargest || (*list)[1] > kLargest) {
      return absl::InvalidArgumentError(absl::StrCat(op, ": kernel_size, strides and dilations must be two integers in 1 ... 2^20 each"));
    }
  }
  for (int i = 0; i < 2; ++i) {
    axes[i]->kernel = kernel[i];
    axes[i]->stride = strides[i];
    axes[i]->dilation = dilations[i];
  }
  return absl::OkStatus();
}

Windows WindowGeometry::For(int64_t batch, int64_t height, int64_t width, int64_t channels) const {
  Windows result = windows_;
  result.batch = batch;
  result.channels = channels;
  Fit(height, &result.h);
  Fit(width, &result.w);
  return result;
}

void WindowGeometry::Fit(int64_t size, Axis* axis) const {
  const int64_t extent = (axis->kernel - 1) * axis->dilation + 1;
  axis->in = size;
  if (padding_ == "valid") {
    axis->out = size < extent ? 0 : (size - extent) / axis->stride + 1;
    return;
  }
  // In an order in which nothing overflows, whatever the size.
  axis->out = size / axis->stride + (size % axis->stride != 0 ? 1 : 0);
  axis->pad = padding_ == "causal" ? extent - 1 : std::max<int64_t>(0, ((axis->out - 1) * axis->stride - size + extent) / 2);
}

absl::Status WindowGeometry::Count(const char* op, const Windows& windows, int64_t* count) {
  // Kernel sizes are at most 2^20 each, so that only their product with the channels can overflow.
  if (windows.channels > std::numeric_limits<int64_t>::max() / (windows.h.kernel * windows.w.kernel)) {
    return absl::InvalidArgumentError(absl::StrCat(op, ": windows of ", windows.h.kernel, " x ", windows.w.kernel, " x ", windows.channels,
                                                   " elements are too large"));
  }
  if (__builtin_mul_overflow(windows.h.out, windows.w.out, count) || __builtin_mul_overflow(*count, windows.batch, count)) {
    return absl::InvalidArgumentError(absl::StrCat(op, ": ", windows.batch, " x ", windows.h.out, " x ", windows.w.out, " windows are too many"));
  }
  return absl::OkStatus();
}

}  // namespace tfcompress
