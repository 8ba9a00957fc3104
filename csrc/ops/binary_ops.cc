// TensorFlow's view of csrc/formats/binary: op definitions, shape functions and kernels. Thin: check, allocate, call.
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "formats/binary/binary.h"
#ifdef TFCOMPRESS_WITH_CUDA
#include "formats/binary/cuda.h"
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
constexpr int64_t kMostOutFeatures = int64_t{1} << 36;

// What x's last dimension must be: activations, or words of their signs.
int64_t XColumns(tensorflow::DataType dtype, int64_t k) { return dtype == tensorflow::DT_INT32 ? binary::SignWords(k) : k; }

// x [..., K or words of K], kernel [PackedBytes(K, N)], scale [N], then at most one each of mean [N], bias [N], threshold [N].
absl::Status BinaryMatMulShape(InferenceContext* c) {
  ShapeHandle x, kernel, scale;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &kernel));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &scale));
  DimensionHandle n = c->Dim(scale, 0);
  TF_RETURN_IF_ERROR(MergeVectors(c, {"mean", "bias", "threshold"}, &n));
  int64_t k;
  std::string levels_name;
  tensorflow::DataType x_dtype, y_dtype;
  TF_RETURN_IF_ERROR(c->GetAttr("in_features", &k));
  TF_RETURN_IF_ERROR(c->GetAttr("levels", &levels_name));
  TF_RETURN_IF_ERROR(c->GetAttr("Tx", &x_dtype));
  TF_RETURN_IF_ERROR(c->GetAttr("Ty", &y_dtype));
  binary::Levels levels;
  TF_RETURN_IF_ERROR(ParseName(levels_name, binary::kLevelsNames, &levels));
  // Larger ones are refused when the op runs, with a message of their own.
  if (k <= binary::kMaxInFeatures) {
    DimensionHandle unused;
    if (!c->WithValue(c->Dim(x, -1), XColumns(x_dtype, k), &unused).ok()) {
      return absl::InvalidArgumentError(absl::StrCat("Tfcompress>BinaryMatMul: x must have ", XColumns(x_dtype, k),
                                                     " columns for in_features = ", k, "; received ", c->DebugString(x)));
    }
    if (c->ValueKnown(n) && c->Value(n) <= kMostOutFeatures) {
      const int64_t bytes = binary::PackedBytes(levels, k, c->Value(n));
      if (!c->WithValue(c->Dim(kernel, 0), bytes, &unused).ok()) {
        return absl::InvalidArgumentError(absl::StrCat("Tfcompress>BinaryMatMul: kernel must hold ", bytes, " bytes for in_features = ", k,
                                                       " and out_features = ", c->Value(n), " (scale); received ", c->DebugString(kernel)));
      }
    }
  }
  DimensionHandle columns = n;
  if (y_dtype == tensorflow::DT_INT32) {
    columns = c->ValueKnown(n) ? c->MakeDim(binary::SignWords(c->Value(n))) : c->UnknownDim();
  }
  ShapeHandle batch, y;
  TF_RETURN_IF_ERROR(c->Subshape(x, 0, -1, &batch));
  TF_RETURN_IF_ERROR(c->Concatenate(batch, c->Vector(columns), &y));
  c->set_output(0, y);
  return absl::OkStatus();
}

REGISTER_OP("Tfcompress>BinaryMatMul")
    .Input("x: Tx")
    .Input("kernel: uint8")
    .Input("scale: float32")
    .Input("mean: num_mean * float32")
    .Input("bias: num_bias * float32")
    .Input("threshold: num_threshold * int32")
    .Output("y: Ty")
    .Attr("Tx: {float, bfloat16, half, int32}")
    .Attr("Ty: {float, bfloat16, half, int32}")
    .Attr("num_mean: int >= 0 = 0")
    .Attr("num_bias: int >= 0 = 0")
    .Attr("num_threshold: int >= 0 = 0")
    .Attr("in_features: int >= 0")
    .Attr("levels: {'binary', 'ternary'} = 'binary'")
    .Attr("activations: {'float', 'int8', 'binary'} = 'float'")
    .Attr("scale_x: bool = false")
    .Attr(ActivationAttr("activation"))
    .SetShapeFn(BinaryMatMulShape)
    .Doc(R"doc(
y = activation(x_scale * (scale * (x_p @ w_l) + mean * rowsum(x_p)) + bias), with packed weights w_l of -1, +1 or -1, 0, +1.

x: [..., in_features], or int32 [..., ceil(in_features / 32)]: packed signs, with activations = "binary".
kernel: packed weights, as formats.Binary and formats.Ternary make them.
scale: [out_features], per output.
mean: [out_features], optional.
bias: [out_features], optional.
threshold: [out_features], with activations = "binary" and Ty = int32 only: y is then the packed signs of the integer sums less it.
y: [..., out_features], or int32 [..., ceil(out_features / 32)].
)doc");

REGISTER_OP("Tfcompress>BinaryUnpack")
    .Input("kernel: uint8")
    .Input("scale: float32")
    .Input("mean: num_mean * float32")
    .Output("weights: float32")
    .Attr("in_features: int >= 0")
    .Attr("num_mean: int >= 0 = 0")
    .Attr("levels: {'binary', 'ternary'} = 'binary'")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle kernel, scale;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &kernel));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &scale));
      int64_t in_features;
      TF_RETURN_IF_ERROR(c->GetAttr("in_features", &in_features));
      c->set_output(0, c->Matrix(in_features, c->Dim(scale, 0)));
      return absl::OkStatus();
    })
    .Doc("The float32 weights [in_features, out_features] that packed binary or ternary weights stand for: scale * w_l (+ mean).");

// Kernel and scale agree about [k, n]; n is scale's length.
absl::Status CheckPacked(const char* op, const Tensor& kernel, const Tensor& scale, binary::Levels levels, int64_t k) {
  TF_RETURN_IF_ERROR(CheckRank(op, "kernel", kernel, 1));
  TF_RETURN_IF_ERROR(CheckRank(op, "scale", scale, 1));
  if (k > binary::kMaxInFeatures) {
    return absl::InvalidArgumentError(absl::StrCat(op, ": in_features must be at most ", binary::kMaxInFeatures, "; received ", k));
  }
  const int64_t n = scale.dim_size(0);
  if (kernel.dim_size(0) != binary::PackedBytes(levels, k, n)) {
    return absl::InvalidArgumentError(absl::StrCat(op, ": kernel must have shape [", binary::PackedBytes(levels, k, n), "] for ",
                                                   binary::kLevelsNames[static_cast<int>(levels)], " weights, in_features = ", k,
                                                   " and scale of shape [", n, "]; received shape ", kernel.shape().DebugString()));
  }
  return absl::OkStatus();
}

// What is the same on every device: attributes, checks, arguments. Tensors are the device's, and none is looked into.
class BinaryMatMulBase : public OpKernel {
 public:
  explicit BinaryMatMulBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string name;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("levels", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, binary::kLevelsNames, &levels_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activations", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, binary::kActivationsNames, &activations_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activation", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, kActivationNames, &activation_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("in_features", &in_features_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("scale_x", &scale_x_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"mean", "bias", "threshold"}));
  }

 protected:
  static constexpr const char* kOp = "Tfcompress>BinaryMatMul";

  // All of *args; y is allocated.
  absl::Status GetArgs(OpKernelContext* ctx, binary::MatMulArgs* args) const {
    const Tensor& x = ctx->input(0);
    const Tensor& kernel = ctx->input(1);
    const Tensor& scale = ctx->input(2);
    TF_RETURN_IF_ERROR(CheckPacked(kOp, kernel, scale, levels_, in_features_));
    const int64_t columns = XColumns(x.dtype(), in_features_);
    if (x.dims() < 1 || x.dim_size(x.dims() - 1) != columns) {
      return absl::InvalidArgumentError(absl::StrCat(kOp, ": x must have rank >= 1 and ", columns, " columns for in_features = ", in_features_,
                                                     "; received shape ", x.shape().DebugString()));
    }
    args->m = LeadingElements(x.shape());
    args->k = in_features_;
    args->n = scale.dim_size(0);
    if (x.dtype() == tensorflow::DT_INT32) {
      args->x_signs = static_cast<const uint32_t*>(x.data());
      if (activations_ != binary::Activations::kBinary) {
        return absl::InvalidArgumentError(absl::StrCat(kOp, ": x must be floating-point unless activations = 'binary'"));
      }
    } else {
      args->x = x.data();
      args->x_type = ElementTypeOf(x.dtype());
      args->x_stride = args->k;
    }
    args->levels = levels_;
    args->kernel = kernel.flat<uint8_t>().data();
    args->scale = scale.flat<float>().data();
    args->activations = activations_;
    args->scale_x = scale_x_;
    args->activation = activation_;
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 0, args->n, &args->mean));
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 1, args->n, &args->bias));
    TF_RETURN_IF_ERROR(optional_.Get(ctx, 2, args->n, &args->threshold));
    const bool signs = ctx->expected_output_dtype(0) == tensorflow::DT_INT32;
    if (signs != (args->threshold != nullptr)) {
      return absl::InvalidArgumentError(absl::StrCat(kOp, ": threshold must be given if and only if y is int32"));
    }
    // CheckMatMul goes by pointers, which an empty tensor has none of.
    const bool takes_or_gives_signs = signs || x.dtype() == tensorflow::DT_INT32;
    const bool empty = args->m == 0 || args->n == 0 || args->k == 0;
    if (empty && (activations_ == binary::Activations::kBinary ? scale_x_ && takes_or_gives_signs : takes_or_gives_signs)) {
      return absl::InvalidArgumentError(
          absl::StrCat(kOp, ": packed signs and threshold go with activations = 'binary' and scale_x = false"));
    }
    args->y_stride = args->n;
    TensorShape y_shape = x.shape();
    TF_RETURN_IF_ERROR(y_shape.SetDimWithStatus(x.dims() - 1, signs ? binary::SignWords(args->n) : args->n));
    Tensor* y = nullptr;
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, y_shape, &y));
    if (signs) {
      args->y_signs = static_cast<uint32_t*>(y->data());
    } else {
      args->y = y->data();
      args->y_type = ElementTypeOf(y->dtype());
    }
    return absl::OkStatus();
  }

 private:
  binary::Levels levels_;
  binary::Activations activations_;
  Activation activation_;
  int64_t in_features_;
  bool scale_x_;
  OptionalInputs optional_;
};

class BinaryMatMulOp : public BinaryMatMulBase {
 public:
  explicit BinaryMatMulOp(OpKernelConstruction* ctx) : BinaryMatMulBase(ctx) { OP_REQUIRES_OK(ctx, CheckTier(kOp)); }

  void Compute(OpKernelContext* ctx) override {
    binary::MatMulArgs args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    const std::string error = binary::CheckMatMul(args);
    OP_REQUIRES(ctx, error.empty(), absl::InvalidArgumentError(absl::StrCat(kOp, ": ", error)));
    TensorFlowThreads threads(ctx);
    Workspace workspace;
    OP_REQUIRES_OK(ctx, workspace.Allocate(ctx, binary::WorkspaceBytes(args, threads.NumThreads())));
    binary::MatMul(args, workspace.data(), &threads);
  }
};

class BinaryUnpackBase : public OpKernel {
 public:
  explicit BinaryUnpackBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string name;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("levels", &name));
    OP_REQUIRES_OK(ctx, ParseName(name, binary::kLevelsNames, &levels_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("in_features", &in_features_));
    OP_REQUIRES_OK(ctx, optional_.Init(ctx, kOp, {"mean"}));
  }

 protected:
  static constexpr const char* kOp = "Tfcompress>BinaryUnpack";

  struct Args {
    binary::Levels levels;
    const uint8_t* kernel;
    int64_t k, n;
    const float* scale;
    const float* mean;
    float* weights;
  };

  absl::Status GetArgs(OpKernelContext* ctx, Args* args) const {
    const Tensor& kernel = ctx->input(0);
    const Tensor& scale = ctx->input(1);
    TF_RETURN_IF_ERROR(CheckPacked(kOp, kernel, scale, levels_, in_features_));
    args->levels = levels_;
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
  binary::Levels levels_;
  int64_t in_features_;
  OptionalInputs optional_;
};

class BinaryUnpackOp : public BinaryUnpackBase {
 public:
  using BinaryUnpackBase::BinaryUnpackBase;

  void Compute(OpKernelContext* ctx) override {
    Args a;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &a));
    TensorFlowThreads threads(ctx);
    binary::Dequantize(a.levels, a.kernel, a.k, a.n, a.scale, a.mean, a.weights, &threads);
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>BinaryMatMul").Device(tensorflow::DEVICE_CPU), BinaryMatMulOp);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>BinaryUnpack").Device(tensorflow::DEVICE_CPU), BinaryUnpackOp);

#ifdef TFCOMPRESS_WITH_CUDA
class BinaryMatMulCudaOp : public BinaryMatMulBase {
 public:
  using BinaryMatMulBase::BinaryMatMulBase;

  void Compute(OpKernelContext* ctx) override {
    binary::MatMulArgs args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    const std::string error = binary::CheckCudaMatMul(args);
    OP_REQUIRES(ctx, error.empty(), absl::InvalidArgumentError(absl::StrCat(kOp, ": ", error)));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, kOp));
    void* workspace;
    OP_REQUIRES_OK(ctx, cuda.Allocate(ctx, binary::CudaWorkspaceBytes(args, cuda.device()), &workspace));
    OP_REQUIRES_OK(ctx, LaunchStatus(kOp, binary::CudaMatMul(args, workspace, cuda.device(), cuda.stream())));
  }
};

class BinaryUnpackCudaOp : public BinaryUnpackBase {
 public:
  using BinaryUnpackBase::BinaryUnpackBase;

  void Compute(OpKernelContext* ctx) override {
    Args a;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &a));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, kOp));
    OP_REQUIRES_OK(ctx, LaunchStatus(kOp, binary::CudaDequantize(a.levels, a.kernel, a.k, a.n, a.scale, a.mean, a.weights, cuda.stream())));
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>BinaryMatMul").Device(tensorflow::DEVICE_GPU), BinaryMatMulCudaOp);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>BinaryUnpack").Device(tensorflow::DEVICE_GPU), BinaryUnpackCudaOp);
#endif

}  // namespace
}  // namespace tfcompress
