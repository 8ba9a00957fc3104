// TensorFlow's view of csrc/formats/sparse: op definitions, shape functions and kernels. Thin: check, allocate, call.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "formats/sparse/sparse.h"
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

sparse::Values ValuesOf(tensorflow::DataType dtype) {
  return dtype == tensorflow::DT_FLOAT ? sparse::Values::kFloat32
                                       : dtype == tensorflow::DT_BFLOAT16 ? sparse::Values::kBFloat16 : sparse::Values::kInt8;
}

// structure [bytes] and values [steps, 16 * entries], inputs `first` and `first` + 1, give N.
absl::Status PackedShapes(InferenceContext* c, int first, const char* values_attr, DimensionHandle* n) {
  ShapeHandle structure, values;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first), 1, &structure));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 1), 2, &values));
  tensorflow::DataType dtype;
  TF_RETURN_IF_ERROR(c->GetAttr(values_attr, &dtype));
  const sparse::Values type = ValuesOf(dtype);
  DimensionHandle unused;
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(values, 1), sparse::StepEntries(type), &unused));
  *n = c->UnknownDim();
  const DimensionHandle bytes = c->Dim(structure, 0), steps = c->Dim(values, 0);
  if (c->ValueKnown(bytes) && c->ValueKnown(steps)) {
    const int64_t out_features = sparse::OutFeatures(type, c->Value(steps), c->Value(bytes));
    // A size that goes with no N is refused when the op runs, with a message of its own.
    if (out_features >= 0) *n = c->MakeDim(out_features);
  }
  return absl::OkStatus();
}

absl::Status SparseMatMulShape(InferenceContext* c) {
  ShapeHandle x;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &x));
  DimensionHandle n;
  TF_RETURN_IF_ERROR(PackedShapes(c, 1, "Tvalues", &n));
  TF_RETURN_IF_ERROR(MergeVectors(c, {"scale", "bias"}, &n));
  ShapeHandle batch, y;
  TF_RETURN_IF_ERROR(c->Subshape(x, 0, -1, &batch));
  TF_RETURN_IF_ERROR(c->Concatenate(batch, c->Vector(n), &y));
  c->set_output(0, y);
  return absl::OkStatus();
}

REGISTER_OP("Tfcompress>SparseMatMul")
    .Input("x: T")
    .Input("structure: uint8")
    .Input("values: Tvalues")
    .Input("scale: num_scale * float32")
    .Input("x_scale: num_x_scale * float32")
    .Input("bias: num_bias * float32")
    .Output("y: T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("Tvalues: {float, bfloat16, int8}")
    .Attr("num_scale: int >= 0 = 0")
    .Attr("num_x_scale: int >= 0 = 0")
    .Attr("num_bias: int >= 0 = 0")
    .Attr("reach: int = 64")
    .Attr("activations: {'dynamic', 'static'} = 'dynamic'")
    .Attr(ActivationAttr("activation"))
    .SetShapeFn(SparseMatMulShape)
    .Doc(R"doc(
y = activation(x_scale * scale * (x_q @ w) + bias), with the stored weights w of a pruned matrix; float weights take x as it is.

x: [..., in_features].
structure: where the stored weights lie, as formats.Sparse.pack makes it.
values: [steps, 16 * entries], the stored weights.
scale: [out_features], per output, with int8 values only.
x_scale: [1], with int8 values and activations = "static" only.
bias: [out_features], optional.
y: [..., out_features].
)doc");

REGISTER_OP("Tfcompress>SparseUnpack")
    .Input("structure: uint8")
    .Input("values: Tvalues")
    .Input("scale: num_scale * float32")
    .Output("weights: float32")
    .Attr("Tvalues: {float, bfloat16, int8}")
    .Attr("in_features: int >= 0")
    .Attr("num_scale: int >= 0 = 0")
    .Attr("reach: int = 64")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      DimensionHandle n;
      TF_RETURN_IF_ERROR(PackedShapes(c, 0, "Tvalues", &n));
      int64_t in_features;
      TF_RETURN_IF_ERROR(c->GetAttr("in_features", &in_features));
      c->set_output(0, c->Matrix(in_features, n));
      return absl::OkStatus();
    })
    .Doc("The float32 weights [in_features, out_features] that packed sparse weights stand for.");

REGISTER_OP("Tfcompress>SparseValuesGradient")
    .Input("x: float32")
    .Input("dz: float32")
    .Input("structure: uint8")
    .Input("values: float32")
    .Output("gradient: float32")
    .Attr("reach: int = 64")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle values;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 2, &values));
      c->set_output(0, values);
      return absl::OkStatus();
    })
    .Doc("The gradient with respect to float values of x [m, in_features] @ weights, given dz [m, out_features].");

absl::Status Invalid(const char* op, const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat(op, ": ", error));
}

absl::Status CheckShape(const char* op, const char* name, const Tensor& tensor, const TensorShape& shape) {
  if (tensor.shape() == shape) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(op, ": ", name, " must have shape ", shape.DebugString(), "; received shape ",
                                                 tensor.shape().DebugString()));
}

// Fills the matrix from structure and values, whose shapes must go together. What they hold is checked by sparse::CheckMatrix.
absl::Status GetMatrix(const char* op, const Tensor& structure, const Tensor& values, int64_t k, int64_t reach, sparse::Matrix* matrix) {
  TF_RETURN_IF_ERROR(CheckRank(op, "structure", structure, 1));
  TF_RETURN_IF_ERROR(CheckRank(op, "values", values, 2));
  matrix->values_type = ValuesOf(values.dtype());
  matrix->reach = reach;
  matrix->k = k;
  matrix->steps = values.dim_size(0);
  matrix->values = values.data();
  TF_RETURN_IF_ERROR(CheckShape(op, "values", values, TensorShape({matrix->steps, sparse::StepEntries(matrix->values_type)})));
  return Invalid(op, sparse::SetStructure(structure.flat<uint8_t>().data(), structure.dim_size(0), matrix));
}

class SparseMatMulOp : public OpKernel {
 public:
  explicit SparseMatMulOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string name;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activations", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, sparse::kActivationsNames, &activations_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activation", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, kActivationNames, &activation_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("reach", &reach_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"scale", "x_scale", "bias"}));
    OP_REQUIRES_OK(ctx, CheckTier(kOp));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& x = ctx->input(0);
    OP_REQUIRES(ctx, x.dims() >= 1,
                absl::InvalidArgumentError(absl::StrCat(kOp, ": x must have rank >= 1; received shape ", x.shape().DebugString())));
    sparse::MatMulArgs args;
    const int64_t k = x.dim_size(x.dims() - 1);
    OP_REQUIRES_OK(ctx, GetMatrix(kOp, ctx->input(1), ctx->input(2), k, reach_, &args.matrix));
    const bool is_int8 = args.matrix.values_type == sparse::Values::kInt8;
    args.m = LeadingElements(x.shape());
    args.x = x.data();
    args.x_type = args.y_type = ElementTypeOf(x.dtype());
    args.x_stride = k;
    const float* x_scale;
    OP_REQUIRES_OK(ctx, optional_.Get(ctx, 0, args.matrix.n, &args.scale));
    OP_REQUIRES_OK(ctx, optional_.Get(ctx, 1, 1, &x_scale));
    OP_REQUIRES_OK(ctx, optional_.Get(ctx, 2, args.matrix.n, &args.bias));
    OP_REQUIRES(ctx, (args.scale != nullptr) == is_int8,
                absl::InvalidArgumentError(absl::StrCat(kOp, ": scale must be given if and only if values are int8")));
    OP_REQUIRES(ctx, (x_scale != nullptr) == (is_int8 && activations_ == sparse::Activations::kStatic),
                absl::InvalidArgumentError(
                    absl::StrCat(kOp, ": x_scale must be given if and only if values are int8 and activations = 'static'")));
    if (x_scale != nullptr) args.x_scale = *x_scale;
    args.activations = activations_;
    args.activation = activation_;
    args.y_stride = args.matrix.n;
    OP_REQUIRES_OK(ctx, Invalid(kOp, sparse::CheckMatMul(&args)));

    TensorShape y_shape = x.shape();
    OP_REQUIRES_OK(ctx, y_shape.SetDimWithStatus(x.dims() - 1, args.matrix.n));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, y_shape, &y));
    args.y = y->data();
    TensorFlowThreads threads(ctx);
    Workspace workspace;
    OP_REQUIRES_OK(ctx, workspace.Allocate(ctx, sparse::WorkspaceBytes(args, threads.NumThreads())));
    sparse::MatMul(args, workspace.data(), &threads);
  }

 private:
  static constexpr const char* kOp = "Tfcompress>SparseMatMul";
  sparse::Activations activations_;
  Activation activation_;
  int64_t reach_;
  OptionalInputs optional_;
};

class SparseUnpackOp : public OpKernel {
 public:
  explicit SparseUnpackOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("in_features", &in_features_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("reach", &reach_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"scale"}));
  }

  void Compute(OpKernelContext* ctx) override {
    sparse::Matrix matrix;
    OP_REQUIRES_OK(ctx, GetMatrix(kOp, ctx->input(0), ctx->input(1), in_features_, reach_, &matrix));
    OP_REQUIRES_OK(ctx, Invalid(kOp, sparse::CheckMatrix(&matrix)));
    const float* scale;
    OP_REQUIRES_OK(ctx, optional_.Get(ctx, 0, matrix.n, &scale));
    Tensor* weights = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({in_features_, matrix.n}), &weights));
    TensorFlowThreads threads(ctx);
    sparse::Dequantize(matrix, scale, weights->flat<float>().data(), &threads);
  }

 private:
  static constexpr const char* kOp = "Tfcompress>SparseUnpack";
  int64_t in_features_, reach_;
  OptionalInputs optional_;
};

class SparseValuesGradientOp : public OpKernel {
 public:
  explicit SparseValuesGradientOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("reach", &reach_));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& x = ctx->input(0);
    const Tensor& dz = ctx->input(1);
    OP_REQUIRES_OK(ctx, CheckRank(kOp, "x", x, 2));
    sparse::Matrix matrix;
    OP_REQUIRES_OK(ctx, GetMatrix(kOp, ctx->input(2), ctx->input(3), x.dim_size(1), reach_, &matrix));
    OP_REQUIRES_OK(ctx, Invalid(kOp, sparse::CheckMatrix(&matrix)));
    OP_REQUIRES_OK(ctx, CheckShape(kOp, "dz", dz, TensorShape({x.dim_size(0), matrix.n})));
    Tensor* gradient = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, ctx->input(3).shape(), &gradient));
    TensorFlowThreads threads(ctx);
    sparse::ValuesGradient(matrix, x.flat<float>().data(), dz.flat<float>().data(), x.dim_size(0), gradient->flat<float>().data(),
                           &threads);
  }

 private:
  static constexpr const char* kOp = "Tfcompress>SparseValuesGradient";
  int64_t reach_;
};

REGISTER_KERNEL_BUILDER(Name("Tfcompress>SparseMatMul").Device(tensorflow::DEVICE_CPU), SparseMatMulOp);
REGISTER_KERNEL_BUILDER(Name("Tfcompress>SparseUnpack").Device(tensorflow::DEVICE_CPU), SparseUnpackOp);
REGISTER_KERNEL_BUILDER(Name("Tfcompress>SparseValuesGradient").Device(tensorflow::DEVICE_CPU), SparseValuesGradientOp);

}  // namespace
}  // namespace tfcompress
