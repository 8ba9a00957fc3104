// TensorFlow's view of csrc/base/add.h. There is a kernel for CPUs alone: on a GPU the layers that use it leave the work to TensorFlow's ops.
#include <string>
#include <vector>

#include "base/add.h"
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
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

constexpr const char* kOp = "Tfcompress>Add";

REGISTER_OP("Tfcompress>Add")
    .Input("x: num_x * T")
    .Output("y: T")
    .Attr("num_x: int >= 1")
    .Attr("T: {float, bfloat16, half}")
    .Attr(ActivationAttr("activation"))
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle y = c->input(0);
      for (int i = 1; i < c->num_inputs(); ++i) TF_RETURN_IF_ERROR(c->Merge(y, c->input(i), &y));
      c->set_output(0, y);
      return absl::OkStatus();
    })
    .Doc(R"doc(
activation(x[0] + x[1] + ...), all of one shape. Sums are float32, rounded to T once.
)doc");

class AddOp : public OpKernel {
 public:
  explicit AddOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, CheckTier(kOp));
    std::string name;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activation", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, kActivationNames, &activation_));
    for (int i = 0; i < ctx->num_inputs(); ++i) inputs_.push_back(i);
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& first = ctx->input(0);
    std::vector<const void*> x;
    for (const int i : inputs_) {
      const Tensor& term = ctx->input(i);
      OP_REQUIRES(ctx, term.shape() == first.shape(),
                  absl::InvalidArgumentError(absl::StrCat(kOp, ": x must be tensors of one shape; received shapes ",
                                                          first.shape().DebugString(), " and ", term.shape().DebugString())));
      x.push_back(term.data());
    }
    AddArgs args;
    args.count = first.NumElements();
    args.terms = static_cast<int64_t>(x.size());
    args.type = ElementTypeOf(first.dtype());
    args.x = x.data();
    args.activation = activation_;
    Tensor* y = nullptr;
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output(inputs_, 0, first.shape(), &y));
    args.y = y->data();
    TensorFlowThreads threads(ctx);
    Add(args, &threads);
  }

 private:
  Activation activation_;
  std::vector<int> inputs_;
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Add").Device(tensorflow::DEVICE_CPU), AddOp);

}  // namespace
}  // namespace tfcompress
