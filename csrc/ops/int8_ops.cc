// TensorFlow's view of csrc/formats/int8: op definitions, shape functions and kernels. Thin: check, allocate, call.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "formats/int8/int8.h"
#ifdef TFCOMPRESS_WITH_CUDA
#include "formats/int8/cuda.h"
#include "ops/cuda_support.h"
#endif
#include "ops/op_support.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfcompress {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;
using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// More do not fit into any memory; their number of bytes fits into an int64_t.
constexpr int64_t kMostOutFeatures = int64_t{1} << 40;

// x [..., K], kernel [PackedBytes(K, N)], scale [N], then at most one each of x_scale [1], mean [N], bias [N].
absl::Status Int8MatMulShape(InferenceContext* c) {
  ShapeHandle x, kernel, scale;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &kernel));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &scale));
  std::vector<ShapeHandle> x_scales;
  TF_RETURN_IF_ERROR(c->input("x_scale", &x_scales));
  for (const ShapeHandle& handle : x_scales) {
    ShapeHandle unused;
    TF_RETURN_IF_ERROR(c->Merge(handle, c->Vector(1), &unused));
  }
  DimensionHandle n = c->Dim(scale, 0);
  TF_RETURN_IF_ERROR(MergeVectors(c, {"mean", "bias"}, &n));
  const DimensionHandle k = c->Dim(x, -1);
  // Larger ones are refused when the op runs, with a message of their own.
  if (c->ValueKnown(k) && c->ValueKnown(n) && c->Value(k) <= int8::kMaxInFeatures &&
      c->Value(n) <= kMostOutFeatures) {
    DimensionHandle unused;
    const absl::Status status = c->WithValue(c->Dim(kernel, 0), int8::PackedBytes(c->Value(k), c->Value(n)), &unused);
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "Tfcompress>Int8MatMul: kernel must hold ", int8::PackedBytes(c->Value(k), c->Value(n)), " bytes for in_features = ",
          c->Value(k), " (x) and out_features = ", c->Value(n), " (scale); received ", c->DebugString(kernel)));
    }
  }
  ShapeHandle batch, y;
  TF_RETURN_IF_ERROR(c->Subshape(x, 0, -1, &batch));
  TF_RETURN_IF_ERROR(c->Concatenate(batch, c->Vector(n), &y));
  c->set_output(0, y);
  return absl::OkStatus();
}

REGISTER_OP("Tfcompress>Int8MatMul")
    .Input("x: T")
    .Input("kernel: uint8")
    .Input("scale: float32")
    .Input("x_scale: num_x_scale * float32")
    .Input("mean: num_mean * float32")
    .Input("bias: num_bias * float32")
    .Output("y: T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("num_x_scale: int >= 0 = 0")
    .Attr("num_mean: int >= 0 = 0")
    .Attr("num_bias: int >= 0 = 0")
    .Attr("activations: {'dynamic', 'static', 'float'} = 'dynamic'")
    .Attr(ActivationAttr("activation"))
    .SetShapeFn(Int8MatMulShape)
    .Doc(R"doc(
y = activation(x_scale * (scale * (x_q @ w_q) + mean * rowsum(x_q)) + bias), with packed int8 weights w_q.

x: [..., in_features].
kernel: packed weights, as formats.Int8.pack makes them.
scale: [out_features], per output.
x_scale: [1], with activations = "static" only.
mean: [out_features], optional.
bias: [out_features], optional.
y: [..., out_features].
)doc");

REGISTER_OP("Tfcompress>Int8Unpack")
    .Input("kernel: uint8")
    .Input("scale: float32")
    .Input("mean: num_mean * float32")
    .Output("weights: float32")
    .Attr("in_features: int >= 0")
    .Attr("num_mean: int >= 0 = 0")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle kernel, scale;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &kernel));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &scale));
      int64_t in_features;
      TF_RETURN_IF_ERROR(c->GetAttr("in_features", &in_features));
      c->set_output(0, c->Matrix(in_features, c->Dim(scale, 0)));
      return absl::OkStatus();
    })
    .Doc("The float32 weights [in_features, out_features] that packed int8 weights stand for: scale * w_q (+ mean).");

// Kernel and scale agree about [k, n]; n is scale's length.
absl::Status CheckPacked(const char* op, const Tensor& kernel, const Tensor& scale, int64_t k) {
  TF_RETURN_IF_ERROR(CheckRank(op, "kernel", kernel, 1));
  TF_RETURN_IF_ERROR(CheckRank(op, "scale", scale, 1));
  if (k > int8::kMaxInFeatures) {
    return absl::InvalidArgumentError(
        absl::StrCat(op, ": in_features must be at most ", int8::kMaxInFeatures, "; received ", k));
  }
  const int64_t n = scale.dim_size(0);
  if (kernel.dim_size(0) != int8::PackedBytes(k, n)) {
    return absl::InvalidArgumentError(absl::StrCat(op, ": kernel must have shape [", int8::PackedBytes(k, n),
                                                   "] for in_features = ", k, " and scale of shape [", n,
                                                   "]; received shape ", kernel.shape().DebugString()));
  }
  return absl::OkStatus();
}

// What is the same on every device: attributes, checks, arguments. Tensors are the device's, and none is looked into.
class Int8MatMulBase : public OpKernel {
 public:
  explicit Int8MatMulBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string name;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activations", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, int8::kActivationsNames, &activations_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activation", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, kActivationNames, &activation_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"x_scale", "mean", "bias"}));
  }

 protected:
  static constexpr const char* kOp = "Tfcompress>Int8MatMul";

  // All but args->y. *x_scale is null where none is given.
  absl::Status GetArgs(OpKernelContext* ctx, int8::MatMulArgs* args, const float** x_scale) const {
    const Tensor& x = ctx->input(0);
    const Tensor& kernel = ctx->input(1);
    const Tensor& scale = ctx->input(2);
    if (x.dims() < 1) {
      return absl::InvalidArgumentError(absl::StrCat(kOp, ": x must have rank >= 1; received shape ", x.shape().DebugString()));
    }
    args->k = x.dim_size(x.dims() - 1);
    TF_RETURN_IF_ERROR(CheckPacked(kOp, kernel, scale, args->k));
    args->n = scale.dim_size(0);
    args->m = LeadingElements(x.shape());
    args->x = x.data();
    args->x_type = args->y_type = ElementTypeOf(x.dtype());
    args->x_stride = args->k;
    args->kernel = kernel.flat<uint8_t>().data();
    args->scale = scale.flat<float>().data();
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 0, 1, x_scale));
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 1, args->n, &args->mean));
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 2, args->n, &args->bias));
    if ((*x_scale != nullptr) != (activations_ == int8::Activations::kStatic)) {
      return absl::InvalidArgumentError(absl::StrCat(kOp, ": x_scale must be given if and only if activations = 'static'"));
    }
    args->activations = activations_;
    args->activation = activation_;
    args->y_stride = args->n;
    return absl::OkStatus();
  }

  static absl::Status AllocateY(OpKernelContext* ctx, int8::MatMulArgs* args) {
    TensorShape y_shape = ctx->input(0).shape();
    TF_RETURN_IF_ERROR(y_shape.SetDimWithStatus(y_shape.dims() - 1, args->n));
    Tensor* y = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, y_shape, &y));
    args->y = y->data();
    return absl::OkStatus();
  }

 private:
  int8::Activations activations_;
  Activation activation_;
  OptionalInputs optional_;
};

class Int8MatMulOp : public Int8MatMulBase {
 public:
  explicit Int8MatMulOp(OpKernelConstruction* ctx) : Int8MatMulBase(ctx) { OP_REQUIRES_OK(ctx, CheckTier(kOp)); }

  void Compute(OpKernelContext* ctx) override {
    int8::MatMulArgs args;
    const float* x_scale = nullptr;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args, &x_scale));
    if (x_scale != nullptr) args.x_scale = *x_scale;
    const std::string error = int8::CheckMatMul(args);
    OP_REQUIRES(ctx, error.empty(), absl::InvalidArgumentError(absl::StrCat(kOp, ": ", error)));
    OP_REQUIRES_OK(ctx, AllocateY(ctx, &args));
    TensorFlowThreads threads(ctx);
    Workspace workspace;
    OP_REQUIRES_OK(ctx, workspace.Allocate(ctx, int8::WorkspaceBytes(args, threads.NumThreads())));
    int8::MatMul(args, workspace.data(), &threads);
  }
};

class Int8UnpackBase : public OpKernel {
 public:
  explicit Int8UnpackBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("in_features", &in_features_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"mean"}));
  }

 protected:
  static constexpr const char* kOp = "Tfcompress>Int8Unpack";

  struct Args {
    const uint8_t* kernel;
    int64_t k, n;
    const float* scale;
    const float* mean;
    float* weights;
  };

  absl::Status GetArgs(OpKernelContext* ctx, Args* args) const {
    const Tensor& kernel = ctx->input(0);
    const Tensor& scale = ctx->input(1);
    TF_RETURN_IF_ERROR(CheckPacked(kOp, kernel, scale, in_features_));
    args->k = in_features_;
    args->n = scale.dim_size(0);
    args->kernel = kernel.flat<uint8_t>().data();
    args->scale = scale.flat<float>().data();
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 0, args->n, &args->mean));
    Tensor* weights = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, TensorShape({in_features_, args->n}), &weights));
    args->weights = weights->flat<float>().data();
    return absl::OkStatus();
  }

 private:
  int64_t in_features_;
  OptionalInputs optional_;
};

class Int8UnpackOp : public Int8UnpackBase {
 public:
  using Int8UnpackBase::Int8UnpackBase;

  void Compute(OpKernelContext* ctx) override {
    Args a;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &a));
    TensorFlowThreads threads(ctx);
    int8::Dequantize(a.kernel, a.k, a.n, a.scale, a.mean, a.weights, &threads);
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Int8MatMul").Device(tensorflow::DEVICE_CPU), Int8MatMulOp);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Int8Unpack").Device(tensorflow::DEVICE_CPU), Int8UnpackOp);

#ifdef TFCOMPRESS_WITH_CUDA
class Int8MatMulCudaOp : public Int8MatMulBase {
 public:
  using Int8MatMulBase::Int8MatMulBase;

  void Compute(OpKernelContext* ctx) override {
    int8::CudaMatMulArgs args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args.matmul, &args.x_scale));
    const std::string error = int8::CheckCudaMatMul(args);
    OP_REQUIRES(ctx, error.empty(), absl::InvalidArgumentError(absl::StrCat(kOp, ": ", error)));
    OP_REQUIRES_OK(ctx, AllocateY(ctx, &args.matmul));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, kOp));
    void* workspace;
    OP_REQUIRES_OK(ctx, cuda.Allocate(ctx, int8::CudaWorkspaceBytes(args, cuda.device()), &workspace));
    OP_REQUIRES_OK(ctx, LaunchStatus(kOp, int8::CudaMatMul(args, workspace, cuda.device(), cuda.stream())));
  }
};

class Int8UnpackCudaOp : public Int8UnpackBase {
 public:
  using Int8UnpackBase::Int8UnpackBase;

  void Compute(OpKernelContext* ctx) override {
    Args a;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &a));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, kOp));
    OP_REQUIRES_OK(ctx, LaunchStatus(kOp, int8::CudaDequantize(a.kernel, a.k, a.n, a.scale, a.mean, a.weights, cuda.stream())));
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Int8MatMul").Device(tensorflow::DEVICE_GPU), Int8MatMulCudaOp);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Int8Unpack").Device(tensorflow::DEVICE_GPU), Int8UnpackCudaOp);
#endif

}  // namespace
}  // namespace tfcompress
