// TensorFlow's view of csrc/base/depthwise.h.
#include <string>
#include <vector>

#include "base/depthwise.h"
#ifdef TFCOMPRESS_WITH_CUDA
#include "ops/cuda_support.h"
#endif
#include "ops/op_support.h"
#include "ops/window_geometry.h"
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

constexpr const char* kOp = "Tfcompress>DepthwiseConv2D";

REGISTER_OP("Tfcompress>DepthwiseConv2D")
    .Input("x: float32")
    .Input("kernel: float32")
    .Input("bias: num_bias * float32")
    .Output("y: float32")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'valid', 'same', 'causal'}")
    .Attr("num_bias: int >= 0 = 0")
    .Attr(ActivationAttr("activation"))
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle x, kernel;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &kernel));
      DimensionHandle channels;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(x, 3), c->Dim(kernel, 1), &channels));
      TF_RETURN_IF_ERROR(MergeVectors(c, {"bias"}, &channels));
      c->set_output(0, c->MakeShape({c->Dim(x, 0), c->UnknownDim(), c->UnknownDim(), channels}));
      return absl::OkStatus();
    })
    .Doc(R"doc(
A convolution of each channel by itself: activation(depthwise_conv2d(x, kernel) + bias).

x: [batch, height, width, channels].
kernel: [kernel height * kernel width, channels].
bias: [channels], optional.
y: [batch, new height, new width, channels].
)doc");

// What is the same on every device.
class DepthwiseBase : public OpKernel {
 public:
  explicit DepthwiseBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, geometry_.Init(ctx, kOp));
    std::string name;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activation", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, kActivationNames, &activation_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"bias"}));
  }

 protected:
  absl::Status GetArgs(OpKernelContext* ctx, DepthwiseArgs* args) const {
    const Tensor& x = ctx->input(0);
    const Tensor& kernel = ctx->input(1);
    TF_RETURN_IF_ERROR(CheckRank(kOp, "x", x, 4));
    TF_RETURN_IF_ERROR(CheckRank(kOp, "kernel", kernel, 2));
    Windows& windows = args->windows;
    windows = geometry_.For(x.dim_size(0), x.dim_size(1), x.dim_size(2), x.dim_size(3));
    int64_t count;
    TF_RETURN_IF_ERROR(WindowGeometry::Count(kOp, windows, &count));
    const int64_t taps = windows.h.kernel * windows.w.kernel;
    if (kernel.dim_size(0) != taps || kernel.dim_size(1) != windows.channels) {
      return absl::InvalidArgumentError(absl::StrCat(kOp, ": kernel must have shape [", taps, ",", windows.channels, "] for x of shape ",
                                                     x.shape().DebugString(), "; received shape ", kernel.shape().DebugString()));
    }
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 0, windows.channels, &args->bias));
    args->x = x.flat<float>().data();
    args->kernel = kernel.flat<float>().data();
    args->activation = activation_;
    TensorShape shape;
    TF_RETURN_IF_ERROR(TensorShape::BuildTensorShape({windows.batch, windows.h.out, windows.w.out, windows.channels}, &shape));
    Tensor* y = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, shape, &y));
    args->y = y->flat<float>().data();
    return absl::OkStatus();
  }

 private:
  WindowGeometry geometry_;
  Activation activation_;
  OptionalInputs optional_;
};

class DepthwiseOp : public DepthwiseBase {
 public:
  explicit DepthwiseOp(OpKernelConstruction* ctx) : DepthwiseBase(ctx) { OP_REQUIRES_OK(ctx, CheckTier(kOp)); }

  void Compute(OpKernelContext* ctx) override {
    DepthwiseArgs args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    TensorFlowThreads threads(ctx);
    DepthwiseConvolution(args, &threads);
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>DepthwiseConv2D").Device(tensorflow::DEVICE_CPU), DepthwiseOp);

#ifdef TFCOMPRESS_WITH_CUDA
class DepthwiseCudaOp : public DepthwiseBase {
 public:
  using DepthwiseBase::DepthwiseBase;

  void Compute(OpKernelContext* ctx) override {
    DepthwiseArgs args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, kOp));
    OP_REQUIRES_OK(ctx, LaunchStatus(kOp, CudaDepthwiseConvolution(args, cuda.stream())));
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>DepthwiseConv2D").Device(tensorflow::DEVICE_GPU), DepthwiseCudaOp);
#endif

}  // namespace
}  // namespace tfcompress
