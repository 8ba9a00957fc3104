#include "ops/op_support.h"

#include <functional>
#include <utility>

#include "base/team.h"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/kernel_def.pb.h"

namespace tfcompress {

using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;
using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

TensorFlowThreads::TensorFlowThreads(OpKernelContext* ctx)
    : workers_(ctx->device()->tensorflow_cpu_worker_threads()->workers),
      num_threads_(ctx->device()->tensorflow_cpu_worker_threads()->num_threads) {}

void TensorFlowThreads::Run(int64_t groups, int64_t tasks, TaskRef task) {
  const auto schedule = [this](std::function<void()> closure) { workers_->Schedule(std::move(closure)); };
  RunWithHelpers(workers_, schedule, num_threads_, groups, tasks, task);
}

absl::Status Workspace::Allocate(OpKernelContext* ctx, int64_t bytes) {
  if (bytes <= kInlineBytes) return absl::OkStatus();
  TF_RETURN_IF_ERROR(ctx->allocate_temp(tensorflow::DT_UINT8, TensorShape({bytes + 64}), &tensor_));
  const auto address = reinterpret_cast<uintptr_t>(tensor_.data());
  data_ = reinterpret_cast<void*>((address + 63) / 64 * 64);
  return absl::OkStatus();
}

absl::Status OptionalInputs::Init(OpKernelConstruction* ctx, const char* op, std::initializer_list<const char*> names) {
  int index = ctx->num_inputs();
  for (const char* name : names) {
    int count;
    TF_RETURN_IF_ERROR(ctx->GetAttr(absl::StrCat("num_", name), &count));
    if (count > 1) {
      return absl::InvalidArgumentError(absl::StrCat(op, ": ", name, " takes at most one tensor; received ", count));
    }
    index -= count;
  }
  op_ = op;
  for (const char* name : names) {
    int count;
    TF_RETURN_IF_ERROR(ctx->GetAttr(absl::StrCat("num_", name), &count));
    inputs_.push_back({name, count == 0 ? -1 : index++});
  }
  return absl::OkStatus();
}

absl::Status OptionalInputs::Find(OpKernelContext* ctx, int i, int64_t n, const Tensor** tensor) const {
  *tensor = nullptr;
  const auto& [name, index] = inputs_[i];
  if (index < 0) return absl::OkStatus();
  TF_RETURN_IF_ERROR(CheckVector(op_, name, ctx->input(index), n));
  *tensor = &ctx->input(index);
  return absl::OkStatus();
}

void RegisterKernel(const tensorflow::KernelDef* kernel, const char* class_name,
                    tensorflow::OpKernel* (*create)(OpKernelConstruction*)) {
  const auto same_types = [&](const tensorflow::KernelDef& other) {
    if (other.constraint_size() != kernel->constraint_size()) return false;
    for (int i = 0; i < other.constraint_size(); ++i) {
      const auto& a = other.constraint(i).allowed_values().list();
      const auto& b = kernel->constraint(i).allowed_values().list();
      if (a.type_size() != b.type_size()) return false;
      for (int j = 0; j < a.type_size(); ++j) {
        if (a.type(j) != b.type(j)) return false;
      }
    }
    return true;
  };
  const tensorflow::KernelList known = tensorflow::GetRegisteredKernelsForOp(kernel->op());
  for (const tensorflow::KernelDef& other : known.kernel()) {
    if (other.device_type() == kernel->device_type() && same_types(other)) {
      delete kernel;
      return;
    }
  }
  tensorflow::kernel_factory::OpKernelRegistrar(kernel, class_name, create);
}

absl::Status MergeVectors(InferenceContext* c, std::initializer_list<const char*> names, DimensionHandle* n) {
  for (const char* name : names) {
    std::vector<ShapeHandle> handles;
    TF_RETURN_IF_ERROR(c->input(name, &handles));
    for (const ShapeHandle& handle : handles) {
      ShapeHandle vector;
      TF_RETURN_IF_ERROR(c->WithRank(handle, 1, &vector));
      TF_RETURN_IF_ERROR(c->Merge(*n, c->Dim(vector, 0), n));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRank(const char* op, const char* name, const Tensor& tensor, int rank) {
  if (tensor.dims() == rank) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": ", name, " must have rank ", rank, "; received shape ", tensor.shape().DebugString()));
}

absl::Status CheckVector(const char* op, const char* name, const Tensor& tensor, int64_t length) {
  if (tensor.dims() == 1 && tensor.dim_size(0) == length) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": ", name, " must have shape [", length, "]; received shape ", tensor.shape().DebugString()));
}

absl::Status CheckTier(const char* op) {
  std::string error;
  ActiveTier(&error);
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat(op, ": ", error));
}

ElementType ElementTypeOf(tensorflow::DataType dtype) {
  switch (dtype) {
    case tensorflow::DT_BFLOAT16:
      return ElementType::kBFloat16;
    case tensorflow::DT_HALF:
      return ElementType::kFloat16;
    default:
      return ElementType::kFloat32;
  }
}

int64_t LeadingElements(const TensorShape& shape) {
  int64_t elements = 1;
  for (int i = 0; i + 1 < shape.dims(); ++i) elements *= shape.dim_size(i);
  return elements;
}

std::string ActivationAttr(const char* name) {
  std::string attr = absl::StrCat(name, ": {");
  for (const char* activation : kActivationNames) absl::StrAppend(&attr, "'", activation, "', ");
  attr.resize(attr.size() - 2);
  return absl::StrCat(attr, "} = '", kActivationNames[0], "'");
}

}  // namespace tfcompress
