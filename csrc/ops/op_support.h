// What every op's glue needs: threads, scratch memory, checks with uniform messages.
#ifndef TFCOMPRESS_OPS_OP_SUPPORT_H_
#define TFCOMPRESS_OPS_OP_SUPPORT_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/cpu.h"
#include "base/parallel.h"
#include "base/types.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfcompress {

// The intra-op thread pool of the device that an op runs on. The calling thread takes part.
class TensorFlowThreads final : public ThreadPool {
 public:
  explicit TensorFlowThreads(tensorflow::OpKernelContext* ctx);
  int NumThreads() const override { return num_threads_; }
  void Run(int64_t groups, int64_t tasks, TaskRef task) override;

 private:
  tensorflow::thread::ThreadPool* workers_;
  int num_threads_;
};

// 64-byte aligned scratch memory: a little on the stack, since an allocation is felt at batch 1, otherwise from the device's allocator.
class Workspace {
 public:
  absl::Status Allocate(tensorflow::OpKernelContext* ctx, int64_t bytes);
  void* data() { return data_; }

 private:
  static constexpr int64_t kInlineBytes = 16 << 10;
  alignas(64) char inline_[kInlineBytes];
  tensorflow::Tensor tensor_;
  void* data_ = inline_;
};

// Optional inputs are lists of 0 or 1 vectors behind the required inputs, in this order. Where each lies is found once: a look-up by
// name at every step would cost as much as a small layer.
class OptionalInputs {
 public:
  absl::Status Init(tensorflow::OpKernelConstruction* ctx, const char* op, std::initializer_list<const char*> names);
  // The i-th of `names`: its values if it is given and has shape [n], null if it is not given. T is the input's type.
  template <typename T>
  absl::Status Get(tensorflow::OpKernelContext* ctx, int i, int64_t n, const T** values) const {
    const tensorflow::Tensor* tensor;
    TF_RETURN_IF_ERROR(Find(ctx, i, n, &tensor));
    *values = tensor == nullptr ? nullptr : tensor->flat<T>().data();
    return absl::OkStatus();
  }

 private:
  absl::Status Find(tensorflow::OpKernelContext* ctx, int i, int64_t n, const tensorflow::Tensor** tensor) const;

  const char* op_ = nullptr;
  std::vector<std::pair<const char*, int>> inputs_;
};

// Registers a kernel, unless this process has one for the same op, device and types: a copy of this library that was loaded before. TensorFlow
// itself takes a second registration silently, and then finds two kernels to choose from whenever the op is used.
void RegisterKernel(const tensorflow::KernelDef* kernel, const char* class_name,
                    tensorflow::OpKernel* (*create)(tensorflow::OpKernelConstruction*));

// REGISTER_KERNEL_BUILDER by RegisterKernel; at namespace scope.
#define TFCOMPRESS_REGISTER_KERNEL(builder, ...) TFCOMPRESS_REGISTER_KERNEL_COUNTED(__COUNTER__, builder, __VA_ARGS__)
#define TFCOMPRESS_REGISTER_KERNEL_COUNTED(counter, builder, ...) TFCOMPRESS_REGISTER_KERNEL_AS(counter, builder, __VA_ARGS__)
#define TFCOMPRESS_REGISTER_KERNEL_AS(counter, builder, ...)                                                       \
  [[maybe_unused]] const bool registered_##counter =                                                               \
      (::tfcompress::RegisterKernel(::tensorflow::register_kernel::builder.Build(), #__VA_ARGS__,                  \
                                    [](::tensorflow::OpKernelConstruction* ctx) -> ::tensorflow::OpKernel* {       \
                                      return new __VA_ARGS__(ctx);                                                 \
                                    }),                                                                            \
       true)

// Tensor must have this rank / be a vector of this length: InvalidArgument naming op, argument, expected and actual.
absl::Status CheckRank(const char* op, const char* name, const tensorflow::Tensor& tensor, int rank);
absl::Status CheckVector(const char* op, const char* name, const tensorflow::Tensor& tensor, int64_t length);
// TFCOMPRESS_ISA names a tier.
absl::Status CheckTier(const char* op);

// Merges the lengths of the optional vectors `names` (those that are given) into *n.
absl::Status MergeVectors(tensorflow::shape_inference::InferenceContext* c, std::initializer_list<const char*> names,
                          tensorflow::shape_inference::DimensionHandle* n);

ElementType ElementTypeOf(tensorflow::DataType dtype);

// The product of all dimensions but the last.
int64_t LeadingElements(const tensorflow::TensorShape& shape);

// "name: {'linear', 'relu', ...} = 'linear'", from kActivationNames.
std::string ActivationAttr(const char* name);

template <typename Enum, size_t kCount>
absl::Status ParseName(const std::string& name, const char* const (&names)[kCount], Enum* value) {
  for (size_t i = 0; i < kCount; ++i) {
    if (name == names[i]) {
      *value = static_cast<Enum>(i);
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown name '", name, "'"));
}

}  // namespace tfcompress

#endif  // TFCOMPRESS_OPS_OP_SUPPORT_H_
