// TensorFlow's view of csrc/formats/sparse: op definitions, shape functions and kernels. Thin: check, allocate, call.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "formats/sparse/sparse.h"
#ifdef TFCOMPRESS_WITH_CUDA
#include "formats/sparse/cuda.h"
#include "ops/cuda_support.h"
#include "tensorflow/core/platform/tensor_float_32_utils.h"
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

// Fills the matrix from structure and values, whose shapes must go together. What they hold is checked by CheckHostMatrix or CheckDeviceMatrix.
absl::Status GetMatrix(const char* op, const Tensor& structure, const Tensor& values, int64_t k, int64_t reach, sparse::Matrix* matrix) {
  TF_RETURN_IF_ERROR(CheckRank(op, "structure", structure, 1));
  TF_RETURN_IF_ERROR(CheckRank(op, "values", values, 2));
  matrix->values_type = ValuesOf(values.dtype());
  matrix->reach = reach;
  matrix->k = k;
  matrix->steps = values.dim_size(0);
  matrix->values = values.data();
  TF_RETURN_IF_ERROR(CheckShape(op, "values", values, TensorShape({matrix->steps, sparse::StepEntries(matrix->values_type)})));
  if (sparse::PointInto(structure.flat<uint8_t>().data(), structure.dim_size(0), matrix)) return absl::OkStatus();
  return Invalid(op, sparse::StructureSizeError(matrix->steps, structure.dim_size(0)));
}

// Looks into a matrix on the CPU.
absl::Status CheckHostMatrix(const char* op, sparse::Matrix* matrix) {
  TF_RETURN_IF_ERROR(Invalid(op, sparse::CheckInFeatures(*matrix)));
  return Invalid(op, sparse::CheckMatrix(matrix));
}

// What is the same on every device: attributes, checks, arguments. Tensors are the device's, and none is looked into.
class SparseMatMulBase : public OpKernel {
 public:
  explicit SparseMatMulBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string name;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activations", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, sparse::kActivationsNames, &activations_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activation", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, kActivationNames, &activation_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("reach", &reach_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"scale", "x_scale", "bias"}));
  }

 protected:
  static constexpr const char* kOp = "Tfcompress>SparseMatMul";

  // All but args->y. *x_scale is null where none is given.
  absl::Status GetArgs(OpKernelContext* ctx, sparse::MatMulArgs* args, const float** x_scale) const {
    const Tensor& x = ctx->input(0);
    if (x.dims() < 1) {
      return absl::InvalidArgumentError(absl::StrCat(kOp, ": x must have rank >= 1; received shape ", x.shape().DebugString()));
    }
    const int64_t k = x.dim_size(x.dims() - 1);
    TF_RETURN_IF_ERROR(GetMatrix(kOp, ctx->input(1), ctx->input(2), k, reach_, &args->matrix));
    const bool is_int8 = args->matrix.values_type == sparse::Values::kInt8;
    args->m = LeadingElements(x.shape());
    args->x = x.data();
    args->x_type = args->y_type = ElementTypeOf(x.dtype());
    args->x_stride = k;
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 0, args->matrix.n, &args->scale));
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 1, 1, x_scale));
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 2, args->matrix.n, &args->bias));
    if ((args->scale != nullptr) != is_int8) return Invalid(kOp, "scale must be given if and only if values are int8");
    if ((*x_scale != nullptr) != (is_int8 && activations_ == sparse::Activations::kStatic)) {
      return Invalid(kOp, "x_scale must be given if and only if values are int8 and activations = 'static'");
    }
    args->activations = activations_;
    args->activation = activation_;
    args->y_stride = args->matrix.n;
    return absl::OkStatus();
  }

  static absl::Status AllocateY(OpKernelContext* ctx, sparse::MatMulArgs* args) {
    TensorShape y_shape = ctx->input(0).shape();
    TF_RETURN_IF_ERROR(y_shape.SetDimWithStatus(y_shape.dims() - 1, args->matrix.n));
    Tensor* y = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, y_shape, &y));
    args->y = y->data();
    return absl::OkStatus();
  }

 private:
  sparse::Activations activations_;
  Activation activation_;
  int64_t reach_;
  OptionalInputs optional_;
};

class SparseMatMulOp : public SparseMatMulBase {
 public:
  explicit SparseMatMulOp(OpKernelConstruction* ctx) : SparseMatMulBase(ctx) { OP_REQUIRES_OK(ctx, CheckTier(kOp)); }

  void Compute(OpKernelContext* ctx) override {
    sparse::MatMulArgs args;
    const float* x_scale = nullptr;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args, &x_scale));
    if (x_scale != nullptr) args.x_scale = *x_scale;
    OP_REQUIRES_OK(ctx, Invalid(kOp, sparse::CheckInFeatures(args.matrix)));
    OP_REQUIRES_OK(ctx, Invalid(kOp, sparse::CheckMatMul(&args)));
    OP_REQUIRES_OK(ctx, AllocateY(ctx, &args));
    TensorFlowThreads threads(ctx);
    Workspace workspace;
    OP_REQUIRES_OK(ctx, workspace.Allocate(ctx, sparse::WorkspaceBytes(args, threads.NumThreads())));
    sparse::MatMul(args, workspace.data(), &threads);
  }
};

class SparseUnpackBase : public OpKernel {
 public:
  explicit SparseUnpackBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("in_features", &in_features_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("reach", &reach_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"scale"}));
  }

 protected:
  static constexpr const char* kOp = "Tfcompress>SparseUnpack";

  absl::Status GetArgs(OpKernelContext* ctx, sparse::Matrix* matrix, const float** scale) const {
    TF_RETURN_IF_ERROR(GetMatrix(kOp, ctx->input(0), ctx->input(1), in_features_, reach_, matrix));
    return optional_.Get(ctx, 0, matrix->n, scale);
  }

  absl::Status AllocateWeights(OpKernelContext* ctx, const sparse::Matrix& matrix, float** weights) const {
    Tensor* tensor = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, TensorShape({in_features_, matrix.n}), &tensor));
    *weights = tensor->flat<float>().data();
    return absl::OkStatus();
  }

 private:
  int64_t in_features_, reach_;
  OptionalInputs optional_;
};

class SparseUnpackOp : public SparseUnpackBase {
 public:
  using SparseUnpackBase::SparseUnpackBase;

  void Compute(OpKernelContext* ctx) override {
    sparse::Matrix matrix;
    const float* scale;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &matrix, &scale));
    OP_REQUIRES_OK(ctx, CheckHostMatrix(kOp, &matrix));
    float* weights;
    OP_REQUIRES_OK(ctx, AllocateWeights(ctx, matrix, &weights));
    TensorFlowThreads threads(ctx);
    sparse::Dequantize(matrix, scale, weights, &threads);
  }
};

class SparseValuesGradientBase : public OpKernel {
 public:
  explicit SparseValuesGradientBase(OpKernelConstruction* ctx) : OpKernel(ctx) { OP_REQUIRES_OK(ctx, ctx->GetAttr("reach", &reach_)); }

 protected:
  static constexpr const char* kOp = "Tfcompress>SparseValuesGradient";

  struct Args {
    sparse::Matrix matrix;
    const float* x;
    const float* dz;
    int64_t m;
    float* gradient;
  };

  // All but gradient.
  absl::Status GetArgs(OpKernelContext* ctx, Args* args) const {
    const Tensor& x = ctx->input(0);
    const Tensor& dz = ctx->input(1);
    TF_RETURN_IF_ERROR(CheckRank(kOp, "x", x, 2));
    TF_RETURN_IF_ERROR(GetMatrix(kOp, ctx->input(2), ctx->input(3), x.dim_size(1), reach_, &args->matrix));
    TF_RETURN_IF_ERROR(CheckShape(kOp, "dz", dz, TensorShape({x.dim_size(0), args->matrix.n})));
    args->x = x.flat<float>().data();
    args->dz = dz.flat<float>().data();
    args->m = x.dim_size(0);
    return absl::OkStatus();
  }

  static absl::Status AllocateGradient(OpKernelContext* ctx, Args* args) {
    Tensor* gradient = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, ctx->input(3).shape(), &gradient));
    args->gradient = gradient->flat<float>().data();
    return absl::OkStatus();
  }

 private:
  int64_t reach_;
};

class SparseValuesGradientOp : public SparseValuesGradientBase {
 public:
  using SparseValuesGradientBase::SparseValuesGradientBase;

  void Compute(OpKernelContext* ctx) override {
    Args a;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &a));
    OP_REQUIRES_OK(ctx, CheckHostMatrix(kOp, &a.matrix));
    OP_REQUIRES_OK(ctx, AllocateGradient(ctx, &a));
    TensorFlowThreads threads(ctx);
    sparse::ValuesGradient(a.matrix, a.x, a.dz, a.m, a.gradient, &threads);
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>SparseMatMul").Device(tensorflow::DEVICE_CPU), SparseMatMulOp);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>SparseUnpack").Device(tensorflow::DEVICE_CPU), SparseUnpackOp);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>SparseValuesGradient").Device(tensorflow::DEVICE_CPU), SparseValuesGradientOp);

#ifdef TFCOMPRESS_WITH_CUDA
class SparseMatMulCudaOp : public SparseMatMulBase {
 public:
  using SparseMatMulBase::SparseMatMulBase;

  void Compute(OpKernelContext* ctx) override {
    sparse::CudaMatMulArgs args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args.matmul, &args.x_scale));
    args.tensor_float = tensorflow::tensor_float_32_execution_enabled();
    OP_REQUIRES_OK(ctx, Invalid(kOp, sparse::CheckCudaMatrix(args.matmul.matrix)));
    OP_REQUIRES_OK(ctx, AllocateY(ctx, &args.matmul));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, kOp));
    void* workspace;
    OP_REQUIRES_OK(ctx, cuda.Allocate(ctx, sparse::CudaWorkspaceBytes(args, cuda.device()), &workspace));
    OP_REQUIRES_OK(ctx, LaunchStatus(kOp, sparse::CudaMatMul(args, workspace, cuda.device(), cuda.stream())));
  }
};

class SparseUnpackCudaOp : public SparseUnpackBase {
 public:
  using SparseUnpackBase::SparseUnpackBase;

  void Compute(OpKernelContext* ctx) override {
    sparse::Matrix matrix;
    const float* scale;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &matrix, &scale));
    OP_REQUIRES_OK(ctx, Invalid(kOp, sparse::CheckCudaMatrix(matrix)));
    float* weights;
    OP_REQUIRES_OK(ctx, AllocateWeights(ctx, matrix, &weights));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, kOp));
    OP_REQUIRES_OK(ctx, LaunchStatus(kOp, sparse::CudaDequantize(matrix, scale, weights, cuda.stream())));
  }
};

class SparseValuesGradientCudaOp : public SparseValuesGradientBase {
 public:
  using SparseValuesGradientBase::SparseValuesGradientBase;

  void Compute(OpKernelContext* ctx) override {
    Args a;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &a));
    OP_REQUIRES_OK(ctx, Invalid(kOp, sparse::CheckCudaMatrix(a.matrix)));
    OP_REQUIRES_OK(ctx, AllocateGradient(ctx, &a));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, kOp));
    OP_REQUIRES_OK(ctx, LaunchStatus(kOp, sparse::CudaValuesGradient(a.matrix, a.x, a.dz, a.m, a.gradient, cuda.stream())));
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>SparseMatMul").Device(tensorflow::DEVICE_GPU), SparseMatMulCudaOp);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>SparseUnpack").Device(tensorflow::DEVICE_GPU), SparseUnpackCudaOp);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>SparseValuesGradient").Device(tensorflow::DEVICE_GPU), SparseValuesGradientCudaOp);
#endif

}  // namespace
}  // namespace tfcompress
