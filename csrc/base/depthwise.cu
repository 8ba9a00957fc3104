// Depthwise convolutions on CUDA: bound by memory; what neighbouring windows share comes from L1.
#include "base/cuda_epilogue.cuh"
#include "base/depthwise.h"

namespace tfcompress {
namespace {

constexpr int kDepthwiseThreads = 256;

// A thread for an output; neighbours have neighbouring channels.
TFCOMPRESS_GLOBAL(kDepthwiseThreads, 4)
DepthwiseKernel(DepthwiseArgs args, int64_t outputs) {
  const Windows& v = args.windows;
  const int64_t output = BlockIndex() * kDepthwiseThreads + ThreadIndex();
  if (output >= outputs) return;
  const int64_t c = output % v.channels, pixel = output / v.channels;
  const int64_t ow = pixel % v.w.out, oh = pixel / v.w.out % v.h.out, b = pixel / v.w.out / v.h.out;
  const int64_t h0 = oh * v.h.stride - v.h.pad, w0 = ow * v.w.stride - v.w.pad;
  float sum[1] = {0.0f};
  for (int64_t i = 0; i < v.h.kernel; ++i) {
    const int64_t h = h0 + i * v.h.dilation;
    if (h < 0 || h >= v.h.in) continue;
    for (int64_t j = 0; j < v.w.kernel; ++j) {
      const int64_t w = w0 + j * v.w.dilation;
      if (w < 0 || w >= v.w.in) continue;
      sum[0] += LoadReadOnly(args.x + ((b * v.h.in + h) * v.w.in + w) * v.channels + c) * LoadReadOnly(args.kernel + (i * v.w.kernel + j) * v.channels + c);
    }
  }
  sum[0] += args.bias != nullptr ? LoadReadOnly(args.bias + c) : 0.0f;
  ApplyActivationTo(args.activation, sum);
  args.y[output] = sum[0];
}

}  // namespace

std::string CudaDepthwiseConvolution(const DepthwiseArgs& args, void* stream) {
  const int64_t outputs = args.windows.count() * args.windows.channels;
  if (outputs == 0) return "";
  return LaunchKernel("depthwise convolution", DepthwiseKernel, (outputs + kDepthwiseThreads - 1) / kDepthwiseThreads, kDepthwiseThreads, 0, stream,
                      args, outputs);
}

}  // namespace tfcompress
