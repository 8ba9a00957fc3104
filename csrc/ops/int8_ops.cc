// TensorFlow's view of csrc/formats/int8: op definitions, shape functions and kernels. Thin: check, allocate, call.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "formats/int8/int8.h"
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

class Int8MatMulOp : public OpKernel {
 public:
  explicit Int8MatMulOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string name;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activations", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, int8::kActivationsNames, &activations_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activation", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, kActivationNames, &activation_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"x_scale", "mean", "bias"}));
    OP_REQUIRES_OK(ctx, CheckTier(kOp));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& x = ctx->input(0);
    const Tensor& kernel = ctx->input(1);
    const Tensor& scale = ctx->input(2);
    OP_REQUIRES(ctx, x.dims() >= 1,
                absl::InvalidArgumentError(absl::StrCat(kOp, ": x must have rank >= 1; received shape ", x.shape().DebugString())));
    int8::MatMulArgs args;
    args.k = x.dim_size(x.dims() - 1);
    OP_REQUIRES_OK(ctx, CheckPacked(kOp, kernel, scale, args.k));
    args.n = scale.dim_size(0);
    args.m = LeadingElements(x.shape());
    args.x = x.data();
    args.x_type = args.y_type = ElementTypeOf(x.dtype());
    args.x_stride = args.k;
    args.kernel = kernel.flat<uint8_t>().data();
    args.scale = scale.flat<float>().data();
    const float* x_scale;
    OP_REQUIRES_OK(ctx, optional_.Get(ctx, 0, 1, &x_scale));
    OP_REQUIRES_OK(ctx, optional_.Get(ctx, 1, args.n, &args.mean));
    OP_REQUIRES_OK(ctx, optional_.Get(ctx, 2, args.n, &args.bias));
    OP_REQUIRES(ctx, (x_scale != nullptr) == (activations_ == int8::Activations::kStatic),
                absl::InvalidArgumentError(absl::StrCat(kOp, ": x_scale must be given if and only if activations = 'static'")));
    if (x_scale != nullptr) args.x_scale = *x_scale;
    args.activations = activations_;
    args.activation = activation_;
    args.y_stride = args.n;
    const std::string error = int8::CheckMatMul(args);
    OP_REQUIRES(ctx, error.empty(), absl::InvalidArgumentError(absl::StrCat(kOp, ": ", error)));

    TensorShape y_shape = x.shape();
    OP_REQUIRES_OK(ctx, y_shape.SetDimWithStatus(x.dims() - 1, args.n));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, y_shape, &y));
    args.y = y->data();
    TensorFlowThreads threads(ctx);
    Workspace workspace;
    OP_REQUIRES_OK(ctx, workspace.Allocate(ctx, int8::WorkspaceBytes(args, threads.NumThreads())));
    int8::MatMul(args, workspace.data(), &threads);
  }

 private:
  static constexpr const char* kOp = "Tfcompress>Int8MatMul";
  int8::Activations activations_;
  Activation activation_;
  OptionalInputs optional_;
};

class Int8UnpackOp : public OpKernel {
 public:
  explicit Int8UnpackOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("in_features", &in_features_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"mean"}));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& kernel = ctx->input(0);
    const Tensor& scale = ctx->input(1);
    OP_REQUIRES_OK(ctx, CheckPacked(kOp, kernel, scale, in_features_));
    const int64_t n = scale.dim_size(0);
    const float* mean;
    OP_REQUIRES_OK(ctx, optional_.Get(ctx, 0, n, &mean));
    Tensor* weights = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({in_features_, n}), &weights));
    TensorFlowThreads threads(ctx);
    int8::Dequantize(kernel.flat<uint8_t>().data(), in_features_, n, scale.flat<float>().data(), mean,
                     weights->flat<float>().data(), &threads);
  }

 private:
  static constexpr const char* kOp = "Tfcompress>Int8Unpack";
  int64_t in_features_;
  OptionalInputs optional_;
};

REGISTER_KERNEL_BUILDER(Name("Tfcompress>Int8MatMul").Device(tensorflow::DEVICE_CPU), Int8MatMulOp);
REGISTER_KERNEL_BUILDER(Name("Tfcompress>Int8Unpack").Device(tensorflow::DEVICE_CPU), Int8UnpackOp);

}  // namespace
}  // namespace tfcompress
