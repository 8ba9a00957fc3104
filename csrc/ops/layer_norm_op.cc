// TensorFlow's view of csrc/base/layer_norm.h. There is a kernel for CPUs alone: on a GPU the layers that use it leave the work to Keras' ops,
// which are launched side by side there.
#include <cmath>

#include "base/layer_norm.h"
#include "ops/op_support.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfcompress {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

constexpr const char* kOp = "Tfcompress>LayerNorm";

REGISTER_OP("Tfcompress>LayerNorm")
    .Input("x: T")
    .Input("gamma: num_gamma * float32")
    .Input("beta: num_beta * float32")
    .Output("y: T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("epsilon: float")
    .Attr("num_gamma: int >= 0 = 0")
    .Attr("num_beta: int >= 0 = 0")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle x, y;
      TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &x));
      DimensionHandle features = c->Dim(x, -1);
      TF_RETURN_IF_ERROR(MergeVectors(c, {"gamma", "beta"}, &features));
      TF_RETURN_IF_ERROR(c->ReplaceDim(x, -1, features, &y));
      c->set_output(0, y);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Layer normalisation: (x - mean) / sqrt(variance + epsilon) * gamma + beta, over the last dimension. Sums are float32.

x: [..., features].
gamma: [features], optional.
beta: [features], optional.
epsilon: not negative.
y: [..., features].
)doc");

class LayerNormOp : public OpKernel {
 public:
  explicit LayerNormOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, CheckTier(kOp));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"gamma", "beta"}));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("epsilon", &epsilon_));
    OP_REQUIRES(ctx, epsilon_ >= 0 && std::isfinite(epsilon_),
                absl::InvalidArgumentError(absl::StrCat(kOp, ": epsilon must be finite and not negative; received ", epsilon_)));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& x = ctx->input(0);
    OP_REQUIRES(ctx, x.dims() >= 1,
                absl::InvalidArgumentError(absl::StrCat(kOp, ": x must have rank 1 or more; received shape ", x.shape().DebugString())));
    LayerNormArgs args;
    args.features = x.dim_size(x.dims() - 1);
    args.rows = LeadingElements(x.shape());
    args.type = ElementTypeOf(x.dtype());
    OP_REQUIRES_OK(ctx, optional_.Get(ctx, 0, args.features, &args.gamma));
    OP_REQUIRES_OK(ctx, optional_.Get(ctx, 1, args.features, &args.beta));
    args.epsilon = epsilon_;
    args.x = x.data();
    Tensor* y = nullptr;
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
    args.y = y->data();
    TensorFlowThreads threads(ctx);
    LayerNorm(args, &threads);
  }

 private:
  OptionalInputs optional_;
  float epsilon_ = 0;
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>LayerNorm").Device(tensorflow::DEVICE_CPU), LayerNormOp);

}  // namespace
}  // namespace tfcompress
