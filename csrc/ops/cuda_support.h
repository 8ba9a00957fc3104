// What every op's GPU kernel needs: the device, TensorFlow's stream, device memory that is freed when the stream has passed.
#ifndef TFCOMPRESS_OPS_CUDA_SUPPORT_H_
#define TFCOMPRESS_OPS_CUDA_SUPPORT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "base/cuda_device.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace tfcompress {

class CudaContext {
 public:
  // FailedPrecondition, with what is missing, where kernels of this build cannot run on the op's device.
  absl::Status Init(tensorflow::OpKernelContext* ctx, const char* op);
  const CudaDevice& device() const { return *device_; }
  void* stream() const { return stream_; }
  // Device memory, once an op. TensorFlow's allocator hands it out again only behind what the stream has been given until then.
  absl::Status Allocate(tensorflow::OpKernelContext* ctx, int64_t bytes, void** data);

 private:
  const CudaDevice* device_ = nullptr;
  void* stream_ = nullptr;
  tensorflow::Tensor workspace_;
};

// Ok for an empty error, otherwise Internal.
absl::Status LaunchStatus(const char* op, const std::string& error);

}  // namespace tfcompress

#endif  // TFCOMPRESS_OPS_CUDA_SUPPORT_H_
