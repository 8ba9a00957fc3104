// A convolution of each channel by itself, from the input to the activation in one pass:
//
//     y[b, oh, ow, c] = activation(sum over i, j of x[b, oh * stride_h - pad_h + i * dilation_h, ow * stride_w - pad_w + j * dilation_w, c]
//                                  * kernel[i * kernel_w + j, c] + bias[c])
//
// where x is zero outside of itself. Format-independent: a depthwise kernel is a few numbers a channel, no matrix to multiply by. What it
// takes in a model is the time to get there: oneDNN reorders its operands at every call, some 100 us for 14 x 14 x 256 at batch 1, of which the
// arithmetic is 10, and normalisation and activation are passes of their own over the outputs.
#ifndef TFCOMPRESS_BASE_DEPTHWISE_H_
#define TFCOMPRESS_BASE_DEPTHWISE_H_

#include <cstdint>
#include <string>

#include "base/cpu.h"
#include "base/parallel.h"
#include "base/patches.h"
#include "base/types.h"

namespace tfcompress {

struct DepthwiseArgs {
  Windows windows;
  const float* x = nullptr;       // [batch, h.in, w.in, channels]
  const float* kernel = nullptr;  // [h.kernel * w.kernel, channels]
  const float* bias = nullptr;    // [channels] or null
  Activation activation = Activation::kLinear;
  float* y = nullptr;  // [batch, h.out, w.out, channels]
};

// Products are added in the order of the window, rounded one by one: the same bits on every tier, for any number of threads.
void DepthwiseConvolution(const DepthwiseArgs& args, ThreadPool* pool);
// On a CUDA device; pointers are the device's. Empty, or what went wrong with the launch.
std::string CudaDepthwiseConvolution(const DepthwiseArgs& args, void* stream);

// One tier's, alone: output rows begin ... end - 1, counted over batch and height.
using DepthwiseRows = void(const DepthwiseArgs& args, int64_t begin, int64_t end);
DepthwiseRows DepthwiseRowsPortable;
#ifdef TFCOMPRESS_HAVE_X86_TIERS
DepthwiseRows DepthwiseRowsAvx2;
DepthwiseRows DepthwiseRowsAvx512;
#endif

// A tier's, or that of the best one below it that was built for this machine.
DepthwiseRows& DepthwiseRowsFor(Tier tier);

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_DEPTHWISE_H_
