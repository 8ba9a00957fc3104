#include "ops/cuda_support.h"

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/device_base.h"
#include "xla/stream_executor/stream.h"

namespace tfcompress {

absl::Status CudaContext::Init(tensorflow::OpKernelContext* ctx, const char* op) {
  std::string error;
  device_ = CurrentCudaDevice(&error);
  if (device_ == nullptr) return absl::FailedPreconditionError(absl::StrCat(op, ": ", error));
  tensorflow::DeviceContext* context = ctx->op_device_context();
  if (context == nullptr || context->stream() == nullptr) {
    return absl::InternalError(absl::StrCat(op, ": the device ", ctx->device()->name(), " has no stream"));
  }
  stream_ = context->stream()->platform_specific_handle().stream;
  return absl::OkStatus();
}

absl::Status CudaContext::Allocate(tensorflow::OpKernelContext* ctx, int64_t bytes, void** data) {
  *data = nullptr;
  if (bytes == 0) return absl::OkStatus();
  const absl::Status status = ctx->allocate_temp(tensorflow::DT_UINT8, tensorflow::TensorShape({bytes}), &workspace_);
  if (status.ok()) *data = workspace_.data();
  return status;
}

absl::Status LaunchStatus(const char* op, const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InternalError(absl::StrCat(op, ": ", error));
}

}  // namespace tfcompress
