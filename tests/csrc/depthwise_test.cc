// Drives every tier's depthwise convolution over random geometries, in blocks of exactly their size, and compares it with plain loops: the same
// order of sums, so that tiers agree to the bit. Usage: depthwise_test [cases] [seed].
#include "base/depthwise.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "python/thread_pool.h"
#include "testing.h"

namespace tfcompress {
namespace {

using namespace tfcompress::testing;  // NOLINT(google-build-using-namespace)

Axis RandomAxis(Random& random, int64_t most) {
  Axis axis;
  axis.kernel = Uniform(random, 1, 5);
  axis.stride = Uniform(random, 1, 3);
  axis.dilation = Uniform(random, 1, 3);
  axis.in = Uniform(random, 1, most);
  axis.pad = Uniform(random, 0, 4);
  axis.out = Uniform(random, 1, most);  // windows may lie wholly outside of x
  return axis;
}

struct Problem {
  explicit Problem(Random& random) {
    Windows& v = args.windows;
    v.batch = Uniform(random, 1, 3);
    v.channels = 1 + Size(random, 100);
    v.h = RandomAxis(random, 8);
    v.w = RandomAxis(random, 20);
    std::normal_distribution<float> normal;
    const auto filled = [&](int64_t size) {
      std::vector<float> values(static_cast<size_t>(size));
      for (float& value : values) value = normal(random);
      return values;
    };
    x = filled(v.batch * v.h.in * v.w.in * v.channels);
    kernel = filled(v.row());
    bias = filled(v.channels);
    args.x = x.data();
    args.kernel = kernel.data();
    args.bias = OneIn(random, 3) ? nullptr : bias.data();
    args.activation = static_cast<Activation>(Uniform(random, 0, static_cast<int64_t>(Activation::kCount) - 1));
  }

  std::vector<float> Run(DepthwiseRows& rows) const {
    const Windows& v = args.windows;
    std::vector<float> y(static_cast<size_t>(v.count() * v.channels), NAN);
    DepthwiseArgs a = args;
    a.y = y.data();
    rows(a, 0, v.batch * v.h.out);
    return y;
  }

  DepthwiseArgs args;
  std::vector<float> x, kernel, bias;
};

void Check(const Problem& p, const std::vector<float>& y, const char* tier) {
  const Windows& v = p.args.windows;
  size_t at = 0;
  for (int64_t b = 0; b < v.batch; ++b) {
    for (int64_t oh = 0; oh < v.h.out; ++oh) {
      for (int64_t ow = 0; ow < v.w.out; ++ow) {
        for (int64_t c = 0; c < v.channels; ++c, ++at) {
          double sum = 0, size = 0;
          for (int64_t i = 0; i < v.h.kernel; ++i) {
            for (int64_t j = 0; j < v.w.kernel; ++j) {
              const int64_t h = oh * v.h.stride - v.h.pad + i * v.h.dilation, w = ow * v.w.stride - v.w.pad + j * v.w.dilation;
              if (h < 0 || h >= v.h.in || w < 0 || w >= v.w.in) continue;
              const double product = static_cast<double>(p.x[static_cast<size_t>(((b * v.h.in + h) * v.w.in + w) * v.channels + c)]) *
                                     p.kernel[static_cast<size_t>((i * v.w.kernel + j) * v.channels + c)];
              sum += product;
              size += std::fabs(product);
            }
          }
          if (p.args.bias != nullptr) sum += p.bias[static_cast<size_t>(c)];
          EXPECT(IsActivated(p.args.activation, ElementType::kFloat32, sum, 1e-5 * (size + 1), y[at]), "%s: %ld channels, activation %d: %g of %g", tier,
                 static_cast<long>(v.channels), static_cast<int>(p.args.activation), static_cast<double>(y[at]), sum);
        }
      }
    }
  }
}

// Enough work for several threads: the same bits as on one.
void TestThreads(Random& random) {
  Problem p(random);
  Windows& v = p.args.windows;
  v.batch = 4;
  v.channels = 33;
  v.h = {30, 30, 3, 1, 1, 1};
  v.w = {31, 31, 3, 1, 1, 1};
  p.x.assign(static_cast<size_t>(v.batch * v.h.in * v.w.in * v.channels), 0.0f);
  for (size_t i = 0; i < p.x.size(); ++i) p.x[i] = static_cast<float>(i % 17);
  p.kernel.assign(static_cast<size_t>(v.row()), 0.5f);
  p.args.x = p.x.data();
  p.args.kernel = p.kernel.data();
  p.args.bias = nullptr;
  WorkerThreads pool(3);
  SingleThread one;
  std::vector<float> single(static_cast<size_t>(v.count() * v.channels), NAN), several(single);
  p.args.activation = Activation::kRelu;
  p.args.y = single.data();
  DepthwiseConvolution(p.args, &one);
  p.args.y = several.data();
  DepthwiseConvolution(p.args, &pool);
  EXPECT(single == several, "threads change results");
  Check(p, single, "threads");
}

int Main(int cases, uint64_t seed) {
  std::printf("depthwise_test: %d cases, seed %lu\n", cases, static_cast<unsigned long>(seed));
  Random random(seed);
  const std::vector<Tier> tiers = DistinctTiers(DepthwiseRowsFor);
  for (int i = 0; i < cases; ++i) {
    const Problem p(random);
    const std::vector<float> first = p.Run(DepthwiseRowsFor(tiers.front()));
    for (const Tier tier : tiers) {
      const std::vector<float> y = p.Run(DepthwiseRowsFor(tier));
      Check(p, y, kTierNames[static_cast<int>(tier)]);
      if (p.args.activation == Activation::kLinear) EXPECT(y == first, "%s: other bits than %s", kTierNames[static_cast<int>(tier)], kTierNames[0]);
    }
  }
  TestThreads(random);
  return Finish();
}

}  // namespace
}  // namespace tfcompress

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 300;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : std::random_device{}();
  return tfcompress::Main(cases, seed);
}
