// The GPU kernels that make patches, their gradient, and depthwise convolutions, in emulation against plain loops: equal to the bit. Usage: patches_cuda_test [cases] [seed].
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "base/depthwise.h"
#include "base/patches.h"
#include "cuda_testing.h"

namespace tfcompress {
namespace {

using namespace tfcompress::testing;  // NOLINT(google-build-using-namespace)

Axis RandomAxis(Random& random) {
  Axis axis;
  axis.kernel = Uniform(random, 1, 4);
  axis.stride = Uniform(random, 1, 3);
  axis.dilation = Uniform(random, 1, 2);
  axis.in = Uniform(random, 1, 9);
  axis.pad = Uniform(random, 0, 3);
  axis.out = Uniform(random, 1, 6);  // windows may lie wholly outside of x
  return axis;
}

// Calls f(row, place in the row, place in x or -1) for every element of the rows.
template <typename F>
void ForEachElement(const Windows& v, int64_t first, int64_t rows, const F& f) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t ow = (first + r) % v.w.out, oh = (first + r) / v.w.out % v.h.out, b = (first + r) / (v.w.out * v.h.out);
    int64_t at = 0;
    for (int64_t i = 0; i < v.h.kernel; ++i) {
      for (int64_t j = 0; j < v.w.kernel; ++j) {
        const int64_t h = oh * v.h.stride - v.h.pad + i * v.h.dilation, w = ow * v.w.stride - v.w.pad + j * v.w.dilation;
        const bool inside = h >= 0 && h < v.h.in && w >= 0 && w < v.w.in;
        for (int64_t c = 0; c < v.channels; ++c) f(r, at++, inside ? ((b * v.h.in + h) * v.w.in + w) * v.channels + c : -1);
      }
    }
  }
}

template <typename T>
void Run(Random& random, const Windows& v, int64_t first, int64_t rows) {
  const size_t offset = OneIn(random, 2) ? 0 : sizeof(T);
  std::vector<T> x(static_cast<size_t>(v.batch * v.h.in * v.w.in * v.channels));
  for (T& element : x) element = static_cast<T>(random());
  std::vector<T> expected(static_cast<size_t>(rows * v.row()));
  ForEachElement(v, first, rows, [&](int64_t r, int64_t at, int64_t from) {
    expected[static_cast<size_t>(r * v.row() + at)] = from < 0 ? T(0) : x[static_cast<size_t>(from)];
  });
  DeviceArray<T> device_x(x, offset), y(expected.size());
  const std::string error = CudaPatches(v, device_x.data(), first, rows, sizeof(T), y.data(), kStream);
  EXPECT(error.empty(), "%s", error.c_str());
  EXPECT(y.ToHost() == expected, "patches of %ld channels, elements of %zu bytes", static_cast<long>(v.channels), sizeof(T));
}

void RunGradient(Random& random, const Windows& v, int64_t first, int64_t rows) {
  std::normal_distribution<float> normal;
  std::vector<float> dy(static_cast<size_t>(rows * v.row()));
  for (float& element : dy) element = normal(random);
  std::vector<float> expected(static_cast<size_t>(v.batch * v.h.in * v.w.in * v.channels), 0.0f);
  ForEachElement(v, first, rows, [&](int64_t r, int64_t at, int64_t to) {
    if (to >= 0) expected[static_cast<size_t>(to)] += dy[static_cast<size_t>(r * v.row() + at)];
  });
  DeviceArray<float> device_dy(dy), dx(expected.size());
  const std::string error = CudaPatchesGradient(v, device_dy.data(), first, rows, dx.data(), kStream);
  EXPECT(error.empty(), "%s", error.c_str());
  EXPECT(dx.ToHost() == expected, "gradient of patches of %ld channels", static_cast<long>(v.channels));
}

// Equal to the bit where nothing is activated by an exponential function.
void RunDepthwise(Random& random, const Windows& v) {
  std::normal_distribution<float> normal;
  const auto filled = [&](int64_t size) {
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = normal(random);
    return values;
  };
  const std::vector<float> x = filled(v.batch * v.h.in * v.w.in * v.channels), kernel = filled(v.row()), bias = filled(v.channels);
  std::vector<float> expected(static_cast<size_t>(v.count() * v.channels));
  DepthwiseArgs args;
  args.windows = v;
  args.activation = static_cast<Activation>(Uniform(random, 0, static_cast<int64_t>(Activation::kCount) - 1));
  const bool biased = OneIn(random, 2);
  args.x = x.data();
  args.kernel = kernel.data();
  args.bias = biased ? bias.data() : nullptr;
  args.y = expected.data();
  SingleThread thread;
  DepthwiseConvolution(args, &thread);
  DeviceArray<float> device_x(x), device_kernel(kernel), device_bias(bias), y(expected.size());
  args.x = device_x.data();
  args.kernel = device_kernel.data();
  args.bias = biased ? device_bias.data() : nullptr;
  args.y = y.data();
  const std::string error = CudaDepthwiseConvolution(args, kStream);
  EXPECT(error.empty(), "%s", error.c_str());
  EXPECT(y.ToHost() == expected, "depthwise convolution of %ld channels, activation %d", static_cast<long>(v.channels), static_cast<int>(args.activation));
}

void Test(Random& random, int64_t cases) {
  for (int64_t i = 0; i < cases; ++i) {
    Windows v;
    v.h = RandomAxis(random);
    v.w = RandomAxis(random);
    v.batch = Uniform(random, 1, 3);
    constexpr int64_t kChannels[] = {1, 2, 3, 4, 7, 8, 16, 33, 64, 100};
    v.channels = kChannels[Uniform(random, 0, 9)];
    const int64_t first = Uniform(random, 0, v.count()), rows = Uniform(random, 0, v.count() - first);
    Run<uint32_t>(random, v, first, rows);
    Run<uint16_t>(random, v, first, rows);
    RunGradient(random, v, first, rows);
    RunDepthwise(random, v);
  }
}

}  // namespace
}  // namespace tfcompress

int main(int argc, char** argv) {
  const int64_t cases = argc > 1 ? std::atoll(argv[1]) : 40;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  tfcompress::testing::Random random(seed);
  tfcompress::emulation::runtime.random.seed(seed);
  tfcompress::Test(random, cases);
  return tfcompress::testing::Finish();
}
