// TensorFlow's view of csrc/formats/int8/lookup.h: rows of an int8 table.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "formats/int8/lookup.h"
#ifdef TFCOMPRESS_WITH_CUDA
#include "formats/int8/cuda.h"
#include "ops/cuda_support.h"
#endif
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

constexpr const char* kOp = "Tfcompress>Int8Lookup";

REGISTER_OP("Tfcompress>Int8Lookup")
    .Input("indices: Tindices")
    .Input("rows: int8")
    .Input("scale: float32")
    .Input("mean: num_mean * float32")
    .Output("y: T")
    .Attr("Tindices: {int32, int64}")
    .Attr("T: {float, bfloat16, half} = DT_FLOAT")
    .Attr("num_mean: int >= 0 = 0")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle rows, scale, y;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &rows));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &scale));
      DimensionHandle n;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(rows, 0), c->Dim(scale, 0), &n));
      TF_RETURN_IF_ERROR(MergeVectors(c, {"mean"}, &n));
      TF_RETURN_IF_ERROR(c->Concatenate(c->input(0), c->Vector(c->Dim(rows, 1)), &y));
      c->set_output(0, y);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Rows of an int8 table: y[...] = scale[r] * rows[r] (+ mean[r]), where r = indices[...].

indices: of any shape, in 0 ... n - 1. Others are an error on a CPU; on a GPU they give zeros.
rows: [n, k].
scale: [n].
mean: [n], optional.
y: [..., k].
)doc");

// "[1,2]": where element `i` of a tensor of this shape lies.
std::string PlaceOf(const TensorShape& shape, int64_t i) {
  std::string place;
  for (int d = shape.dims() - 1; d >= 0; --d) {
    place = absl::StrCat(i % shape.dim_size(d), place.empty() ? "" : ",", place);
    i /= shape.dim_size(d);
  }
  return place.empty() ? "" : absl::StrCat("[", place, "]");
}

// What is the same on every device.
class Int8LookupBase : public OpKernel {
 public:
  explicit Int8LookupBase(OpKernelConstruction* ctx) : OpKernel(ctx) { OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"mean"})); }

 protected:
  absl::Status GetArgs(OpKernelContext* ctx, int8::LookupArgs* args) const {
    const Tensor& indices = ctx->input(0);
    const Tensor& rows = ctx->input(1);
    TF_RETURN_IF_ERROR(CheckRank(kOp, "rows", rows, 2));
    args->n = rows.dim_size(0);
    args->k = rows.dim_size(1);
    TF_RETURN_IF_ERROR(CheckVector(kOp, "scale", ctx->input(2), args->n));
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 0, args->n, &args->mean));
    args->count = indices.NumElements();
    args->indices = indices.data();
    args->wide = indices.dtype() == tensorflow::DT_INT64;
    args->rows = rows.flat<int8_t>().data();
    args->scale = ctx->input(2).flat<float>().data();
    TensorShape shape = indices.shape();
    TF_RETURN_IF_ERROR(shape.AddDimWithStatus(args->k));
    Tensor* y = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, shape, &y));
    args->y = y->data();
    args->y_type = ElementTypeOf(y->dtype());
    return absl::OkStatus();
  }

 private:
  OptionalInputs optional_;
};

class Int8LookupOp : public Int8LookupBase {
 public:
  explicit Int8LookupOp(OpKernelConstruction* ctx) : Int8LookupBase(ctx) { OP_REQUIRES_OK(ctx, CheckTier(kOp)); }

  void Compute(OpKernelContext* ctx) override {
    int8::LookupArgs args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    TensorFlowThreads threads(ctx);
    const int64_t reached = int8::LookUp(args, &threads);
    OP_REQUIRES(ctx, reached == args.count,
                absl::InvalidArgumentError(absl::StrCat(kOp, ": indices", PlaceOf(ctx->input(0).shape(), reached), " = ",
                                                        int8::IndexAt(args, reached), " is not in [0, ", args.n, ")")));
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Int8Lookup").Device(tensorflow::DEVICE_CPU), Int8LookupOp);

#ifdef TFCOMPRESS_WITH_CUDA
class Int8LookupCudaOp : public Int8LookupBase {
 public:
  using Int8LookupBase::Int8LookupBase;

  void Compute(OpKernelContext* ctx) override {
    int8::LookupArgs args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, kOp));
    OP_REQUIRES_OK(ctx, LaunchStatus(kOp, int8::CudaLookUp(args, cuda.stream())));
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Int8Lookup").Device(tensorflow::DEVICE_GPU), Int8LookupCudaOp);
#endif

}  // namespace
}  // namespace tfcompress
