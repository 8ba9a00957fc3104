// What the windows of a convolution see, as rows of a matrix (base/patches.h), and the gradient of that.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/patches.h"
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

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

constexpr int64_t kBytesPerTask = 64 << 10;  // copied by a worker before it looks for more

// Calls run(offset in x, offset in the row, elements) for the parts of window `index` that lie in x, and zero(offset, elements) for the others.
template <typename Run, typename Zero>
void ForEachRun(const Windows& v, int64_t index, const Run& run, const Zero& zero) {
  const int64_t ow = index % v.w.out, oh = index / v.w.out % v.h.out, b = index / v.w.out / v.h.out;
  const int64_t h0 = oh * v.h.stride - v.h.pad, w0 = ow * v.w.stride - v.w.pad, line = v.w.kernel * v.channels;
  for (int64_t i = 0; i < v.h.kernel; ++i) {
    const int64_t h = h0 + i * v.h.dilation, at = i * line;
    if (h < 0 || h >= v.h.in) {
      zero(at, line);
      continue;
    }
    const int64_t base = (b * v.h.in + h) * v.w.in;
    if (v.w.dilation == 1) {
      // Columns of a line lie side by side.
      const int64_t first = std::clamp<int64_t>(-w0, 0, v.w.kernel), last = std::clamp<int64_t>(v.w.in - w0, first, v.w.kernel);
      if (first > 0) zero(at, first * v.channels);
      if (last > first) run((base + w0 + first) * v.channels, at + first * v.channels, (last - first) * v.channels);
      if (last < v.w.kernel) zero(at + last * v.channels, (v.w.kernel - last) * v.channels);
      continue;
    }
    for (int64_t j = 0; j < v.w.kernel; ++j) {
      const int64_t w = w0 + j * v.w.dilation;
      if (w < 0 || w >= v.w.in) {
        zero(at + j * v.channels, v.channels);
      } else {
        run((base + w) * v.channels, at + j * v.channels, v.channels);
      }
    }
  }
}

absl::Status CheckRows(const Windows& windows, int64_t first, int64_t rows) {
  int64_t count;
  TF_RETURN_IF_ERROR(WindowGeometry::Count("Tfcompress>Patches", windows, &count));
  if (first < 0 || rows < 0 || first > count - rows) {
    return absl::InvalidArgumentError(absl::StrCat("Tfcompress>Patches: first and rows must lie within the ", count,
                                                   " windows; received first = ", first, ", rows = ", rows));
  }
  return absl::OkStatus();
}

// What is the same on every device: attributes, checks, the block of windows asked for. `first`, `rows` and `x_shape` lie in the host's memory.
class PatchesBase : public OpKernel {
 public:
  explicit PatchesBase(OpKernelConstruction* ctx) : OpKernel(ctx) { OP_REQUIRES_OK(ctx, geometry_.Init(ctx, "Tfcompress>Patches")); }

 protected:
  struct Args {
    Windows windows;
    int64_t first, rows;
    Tensor* y;
  };

  absl::Status GetArgs(OpKernelContext* ctx, Args* args) const {
    const Tensor& x = ctx->input(0);
    TF_RETURN_IF_ERROR(CheckRank("Tfcompress>Patches", "x", x, 4));
    TF_RETURN_IF_ERROR(CheckRank("Tfcompress>Patches", "first", ctx->input(1), 0));
    TF_RETURN_IF_ERROR(CheckRank("Tfcompress>Patches", "rows", ctx->input(2), 0));
    args->windows = geometry_.For(x.dim_size(0), x.dim_size(1), x.dim_size(2), x.dim_size(3));
    args->first = ctx->input(1).scalar<int64_t>()();
    args->rows = ctx->input(2).scalar<int64_t>()();
    TF_RETURN_IF_ERROR(CheckRows(args->windows, args->first, args->rows));
    TensorShape shape;
    TF_RETURN_IF_ERROR(TensorShape::BuildTensorShape({args->rows, args->windows.row()}, &shape));
    return ctx->allocate_output(0, shape, &args->y);
  }

 private:
  WindowGeometry geometry_;
};

template <typename T>
class PatchesOp : public PatchesBase {
 public:
  using PatchesBase::PatchesBase;

  void Compute(OpKernelContext* ctx) override {
    Args args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    if (args.y->NumElements() == 0) return;
    const Windows& windows = args.windows;
    const int64_t rows = args.rows;
    const T* from = ctx->input(0).flat<T>().data();
    T* to = args.y->flat<T>().data();
    const int64_t row = windows.row();
    const int64_t rows_per_task = std::max<int64_t>(1, kBytesPerTask / (row * static_cast<int64_t>(sizeof(T))));
    TensorFlowThreads threads(ctx);
    const auto copy = [&](int64_t, int64_t task, int) {
      for (int64_t r = task * rows_per_task; r < std::min(rows, (task + 1) * rows_per_task); ++r) {
        T* out = to + r * row;
        ForEachRun(
            windows, args.first + r, [&](int64_t in, int64_t at, int64_t n) { std::memcpy(static_cast<void*>(out + at), from + in, n * sizeof(T)); },
            [&](int64_t at, int64_t n) { std::memset(static_cast<void*>(out + at), 0, n * sizeof(T)); });
      }
    };
    threads.Run(1, (rows + rows_per_task - 1) / rows_per_task, copy);
  }
};

class PatchesGradientBase : public OpKernel {
 public:
  explicit PatchesGradientBase(OpKernelConstruction* ctx) : OpKernel(ctx) { OP_REQUIRES_OK(ctx, geometry_.Init(ctx, "Tfcompress>Patches")); }

 protected:
  struct Args {
    Windows windows;
    int64_t first, rows;
    Tensor* dx;
  };

  absl::Status GetArgs(OpKernelContext* ctx, Args* args) const {
    const Tensor& dy = ctx->input(0);
    TF_RETURN_IF_ERROR(CheckRank("Tfcompress>PatchesGradient", "dy", dy, 2));
    TF_RETURN_IF_ERROR(CheckVector("Tfcompress>PatchesGradient", "x_shape", ctx->input(1), 4));
    TF_RETURN_IF_ERROR(CheckRank("Tfcompress>PatchesGradient", "first", ctx->input(2), 0));
    const auto sizes = ctx->input(1).vec<int64_t>();
    TensorShape shape;
    TF_RETURN_IF_ERROR(TensorShape::BuildTensorShape({sizes(0), sizes(1), sizes(2), sizes(3)}, &shape));
    args->windows = geometry_.For(sizes(0), sizes(1), sizes(2), sizes(3));
    args->first = ctx->input(2).scalar<int64_t>()();
    args->rows = dy.dim_size(0);
    TF_RETURN_IF_ERROR(CheckRows(args->windows, args->first, args->rows));
    if (dy.dim_size(1) != args->windows.row()) {
      return absl::InvalidArgumentError(absl::StrCat("Tfcompress>PatchesGradient: dy must have ", args->windows.row(), " columns; received shape ",
                                                     dy.shape().DebugString()));
    }
    return ctx->allocate_output(0, shape, &args->dx);
  }

 private:
  WindowGeometry geometry_;
};

class PatchesGradientOp : public PatchesGradientBase {
 public:
  using PatchesGradientBase::PatchesGradientBase;

  void Compute(OpKernelContext* ctx) override {
    Args args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    if (args.dx->NumElements() == 0) return;
    const Windows& windows = args.windows;
    const int64_t first = args.first, rows = args.rows;
    const float* from = ctx->input(0).flat<float>().data();
    float* to = args.dx->flat<float>().data();
    const int64_t image = windows.h.out * windows.w.out, elements = args.dx->NumElements() / windows.batch;
    TensorFlowThreads threads(ctx);
    // Windows of one image overlap; images do not.
    const auto add = [&](int64_t, int64_t b, int) {
      std::memset(to + b * elements, 0, elements * sizeof(float));
      const int64_t end = std::min(first + rows, (b + 1) * image);
      for (int64_t index = std::max(first, b * image); index < end; ++index) {
        const float* in = from + (index - first) * windows.row();
        ForEachRun(
            windows, index,
            [&](int64_t out, int64_t at, int64_t n) {
              for (int64_t c = 0; c < n; ++c) to[out + c] += in[at + c];
            },
            [](int64_t, int64_t) {});
      }
    };
    threads.Run(1, windows.batch, add);
  }
};

REGISTER_OP("Tfcompress>Patches")
    .Input("x: T")
    .Input("first: int64")
    .Input("rows: int64")
    .Output("y: T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'valid', 'same', 'causal'}")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle x, scalar;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &scalar));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 0, &scalar));
      std::vector<int64_t> kernel;
      TF_RETURN_IF_ERROR(c->GetAttr("kernel_size", &kernel));
      if (kernel.size() != 2) return absl::InvalidArgumentError("kernel_size must be two integers");
      DimensionHandle row, rows;
      TF_RETURN_IF_ERROR(c->Multiply(c->Dim(x, 3), kernel[0], &row));
      TF_RETURN_IF_ERROR(c->Multiply(row, kernel[1], &row));
      TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(2, &rows));
      c->set_output(0, c->Matrix(rows, row));
      return absl::OkStatus();
    })
    .Doc("Rows first ... first + rows - 1 of the matrix of what the windows of a convolution over x [batch, height, width, channels] see.");

REGISTER_OP("Tfcompress>PatchesGradient")
    .Input("dy: float32")
    .Input("x_shape: int64")
    .Input("first: int64")
    .Output("dx: float32")
    .Attr("kernel_size: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'valid', 'same', 'causal'}")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle dx;
      TF_RETURN_IF_ERROR(c->MakeShapeFromShapeTensor(1, &dx));
      TF_RETURN_IF_ERROR(c->WithRank(dx, 4, &dx));
      c->set_output(0, dx);
      return absl::OkStatus();
    })
    .Doc("The gradient of Patches with respect to x.");

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Patches").Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"), PatchesOp<float>);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Patches").Device(tensorflow::DEVICE_CPU).TypeConstraint<tensorflow::bfloat16>("T"),
                        PatchesOp<tensorflow::bfloat16>);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Patches").Device(tensorflow::DEVICE_CPU).TypeConstraint<Eigen::half>("T"), PatchesOp<Eigen::half>);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>PatchesGradient").Device(tensorflow::DEVICE_CPU), PatchesGradientOp);

#ifdef TFCOMPRESS_WITH_CUDA
class PatchesCudaOp : public PatchesBase {
 public:
  using PatchesBase::PatchesBase;

  void Compute(OpKernelContext* ctx) override {
    Args args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, "Tfcompress>Patches"));
    const int element_bytes = tensorflow::DataTypeSize(args.y->dtype());
    OP_REQUIRES_OK(ctx, LaunchStatus("Tfcompress>Patches", CudaPatches(args.windows, ctx->input(0).data(), args.first, args.rows, element_bytes,
                                                                       args.y->data(), cuda.stream())));
  }
};

class PatchesGradientCudaOp : public PatchesGradientBase {
 public:
  using PatchesGradientBase::PatchesGradientBase;

  void Compute(OpKernelContext* ctx) override {
    Args args;
    OP_REQUIRES_OK(ctx, GetArgs(ctx, &args));
    CudaContext cuda;
    OP_REQUIRES_OK(ctx, cuda.Init(ctx, "Tfcompress>PatchesGradient"));
    OP_REQUIRES_OK(ctx, LaunchStatus("Tfcompress>PatchesGradient",
                                     CudaPatchesGradient(args.windows, ctx->input(0).flat<float>().data(), args.first, args.rows,
                                                         args.dx->flat<float>().data(), cuda.stream())));
  }
};

TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>Patches").Device(tensorflow::DEVICE_GPU).HostMemory("first").HostMemory("rows"), PatchesCudaOp);
TFCOMPRESS_REGISTER_KERNEL(Name("Tfcompress>PatchesGradient").Device(tensorflow::DEVICE_GPU).HostMemory("x_shape").HostMemory("first"),
                        PatchesGradientCudaOp);
#endif

}  // namespace
}  // namespace tfcompress
