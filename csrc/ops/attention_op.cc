// TensorFlow's view of csrc/base/attention.h. There is a kernel for CPUs alone: on a GPU the layers that use it leave the work to Keras' ops, two
// batched products by cuBLAS.
#include <cmath>
#include <string>

#include "base/attention.h"
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
using ::tensorflow::TensorShape;
using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

constexpr const char* kOp = "Tfcompress>Attention";

REGISTER_OP("Tfcompress>Attention")
    .Input("query: T")
    .Input("key: T")
    .Input("value: T")
    .Input("mask: num_mask * bool")
    .Output("y: T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("scale: float")
    .Attr("zero_blind: bool = false")
    .Attr("num_mask: int >= 0 = 0")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle query, key, value;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &query));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &key));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 4, &value));
      DimensionHandle batch, merged;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(query, 0), c->Dim(key, 0), &batch));
      TF_RETURN_IF_ERROR(c->Merge(batch, c->Dim(value, 0), &batch));
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(query, 3), c->Dim(key, 3), &merged));
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(key, 1), c->Dim(value, 1), &merged));
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(key, 2), c->Dim(value, 2), &merged));
      for (int i = 3; i < c->num_inputs(); ++i) {
        ShapeHandle mask;
        TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 4, &mask));
      }
      c->set_output(0, c->MakeShape({batch, c->Dim(query, 1), c->Dim(query, 2), c->Dim(value, 3)}));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Scaled dot-product attention: softmax(scale * query @ key^T) @ value for each head. Sums are float32.

query: [batch, queries, heads, key_dim].
key: [batch, keys, kv_heads, key_dim], where heads is a multiple of kv_heads: neighbouring heads share keys and values.
value: [batch, keys, kv_heads, value_dim].
mask: [batch or 1, heads or 1, queries or 1, keys or 1], optional. Scores where it is false become -0.7 times the largest number.
zero_blind: whether a query that may look at no key gives zeros, not the mean of all values.
y: [batch, queries, heads, value_dim].
)doc");

class AttentionOp : public OpKernel {
 public:
  explicit AttentionOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, CheckTier(kOp));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("scale", &scale_));
    OP_REQUIRES(ctx, std::isfinite(scale_), absl::InvalidArgumentError(absl::StrCat(kOp, ": scale must be finite; received ", scale_)));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("zero_blind", &zero_blind_));
    int masks;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_mask", &masks));
    OP_REQUIRES(ctx, masks <= 1, absl::InvalidArgumentError(absl::StrCat(kOp, ": mask takes at most one tensor; received ", masks)));
  }

  void Compute(OpKernelContext* ctx) override {
    AttentionArgs args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    TensorFlowThreads threads(ctx);
    Workspace workspace;
    OP_REQUIRES_OK(ctx, workspace.Allocate(ctx, AttentionScratchBytes(args, threads)));
    Attention(args, &threads, workspace.data());
  }

 private:
  absl::Status GetArgs(OpKernelContext* ctx, AttentionArgs* args) const {
    const Tensor& query = ctx->input(0);
    const Tensor& key = ctx->input(1);
    const Tensor& value = ctx->input(2);
    TF_RETURN_IF_ERROR(CheckRank(kOp, "query", query, 4));
    TF_RETURN_IF_ERROR(CheckRank(kOp, "key", key, 4));
    TF_RETURN_IF_ERROR(CheckRank(kOp, "value", value, 4));
    args->batch = query.dim_size(0);
    args->queries = query.dim_size(1);
    args->heads = query.dim_size(2);
    args->key_dim = query.dim_size(3);
    args->keys = key.dim_size(1);
    args->kv_heads = key.dim_size(2);
    args->value_dim = value.dim_size(3);
    if (key.dim_size(0) != args->batch || key.dim_size(3) != args->key_dim) {
      return absl::InvalidArgumentError(absl::StrCat(kOp, ": key must have shape [", args->batch, ",keys,kv_heads,", args->key_dim,
                                                     "] for query of shape ", query.shape().DebugString(), "; received shape ",
                                                     key.shape().DebugString()));
    }
    if (args->heads > 0 && (args->kv_heads == 0 || args->heads % args->kv_heads != 0)) {
      return absl::InvalidArgumentError(absl::StrCat(kOp, ": key must have heads that divide the ", args->heads,
                                                     " of query; received shape ", key.shape().DebugString()));
    }
    if (value.dim_size(0) != args->batch || value.dim_size(1) != args->keys || value.dim_size(2) != args->kv_heads) {
      return absl::InvalidArgumentError(absl::StrCat(kOp, ": value must have shape [", args->batch, ",", args->keys, ",", args->kv_heads,
                                                     ",value_dim] for key of shape ", key.shape().DebugString(), "; received shape ",
                                                     value.shape().DebugString()));
    }
    if (ctx->num_inputs() > 3) TF_RETURN_IF_ERROR(GetMask(ctx->input(3), args));
    args->type = ElementTypeOf(query.dtype());
    args->query = query.data();
    args->key = key.data();
    args->value = value.data();
    args->scale = scale_;
    args->zero_blind = zero_blind_;
    TensorShape shape;
    TF_RETURN_IF_ERROR(TensorShape::BuildTensorShape({args->batch, args->queries, args->heads, args->value_dim}, &shape));
    Tensor* y = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, shape, &y));
    args->y = y->data();
    return absl::OkStatus();
  }

  static absl::Status GetMask(const Tensor& mask, AttentionArgs* args) {
    TF_RETURN_IF_ERROR(CheckRank(kOp, "mask", mask, 4));
    const int64_t sizes[] = {args->batch, args->heads, args->queries, args->keys};
    int64_t stride = 1;
    for (int d = 3; d >= 0; --d) {
      const int64_t size = mask.dim_size(d);
      if (size != sizes[d] && size != 1) {
        return absl::InvalidArgumentError(absl::StrCat(kOp, ": mask must have the shape of the scores, [", sizes[0], ",", sizes[1], ",",
                                                       sizes[2], ",", sizes[3], "], or 1 in places; received shape ",
                                                       mask.shape().DebugString()));
      }
      args->mask_strides[d] = size == 1 ? 0 : stride;
      stride *= size;
    }
    args->mask = mask.flat<bool>().data();
    return absl::OkStatus();
  }

  float scale_ = 1;
  bool zero_blind_ = false;
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Attention").Device(tensorflow::DEVICE_CPU), AttentionOp);

}  // namespace
}  // namespace tfcompress
