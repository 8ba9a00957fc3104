// Drives every tier's attention, layer normalisation and sum over random sizes, in blocks of exactly their size, and compares them with plain loops
// in double. Usage: float_ops_test [cases] [seed].
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "base/add.h"
#include "base/attention.h"
#include "base/layer_norm.h"
#include "python/thread_pool.h"
#include "testing.h"

namespace tfcompress {
namespace {

using namespace tfcompress::testing;  // NOLINT(google-build-using-namespace)

std::vector<float> Normal(Random& random, int64_t size, float spread = 1) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = normal(random);
  return values;
}

const float* At(const std::vector<float>& values, int64_t i) { return values.data() + i; }

// ---- Attention -------------------------------------------------------------------------------------------------------------------

struct AttentionProblem {
  explicit AttentionProblem(Random& random) {
    a.batch = Uniform(random, 1, 2);
    a.queries = Size(random, 120);
    // Beyond a block of keys now and then.
    a.keys = 1 + (OneIn(random, 6) ? 200 + Size(random, 400) : Size(random, 140));
    a.kv_heads = Uniform(random, 1, 3);
    a.heads = a.kv_heads * Uniform(random, 1, 3);
    a.key_dim = 1 + Size(random, 70);
    a.value_dim = 1 + Size(random, 140);
    a.scale = 1 / std::sqrt(static_cast<float>(a.key_dim));
    query = Normal(random, a.batch * a.queries * a.heads * a.key_dim, 2);
    key = Normal(random, a.batch * a.keys * a.kv_heads * a.key_dim, 2);
    value = Normal(random, a.batch * a.keys * a.kv_heads * a.value_dim);
    a.query = query.data();
    a.key = key.data();
    a.value = value.data();
    if (OneIn(random, 2)) return;
    const int64_t sizes[] = {a.batch, a.heads, a.queries, a.keys};
    int64_t count = 1;
    for (int d = 3; d >= 0; --d) {
      const bool whole = sizes[d] > 1 && !OneIn(random, 3);
      a.mask_strides[d] = whole ? count : 0;
      if (whole) count *= sizes[d];
    }
    mask.reset(new bool[static_cast<size_t>(count)]);
    const int64_t one_in = Uniform(random, 1, 4);  // 1: nothing may be looked at
    for (int64_t i = 0; i < count; ++i) mask[static_cast<size_t>(i)] = !OneIn(random, static_cast<int>(one_in));
    a.mask = mask.get();
    a.zero_blind = OneIn(random, 2);
  }

  std::vector<float> Run(const AttentionKernel& kernel) const {
    std::vector<float> y(static_cast<size_t>(a.batch * a.queries * a.heads * a.value_dim), NAN);
    AttentionArgs args = a;
    args.y = y.data();
    Scratch scratch(kernel.scratch_bytes(args));
    *static_cast<int64_t*>(scratch.data()) = -1;
    for (int64_t b = 0; b < a.batch; ++b) {
      for (int64_t h = 0; h < a.heads; ++h) {
        for (int64_t t = 0; t < a.queries; t += kAttentionQueries)
          kernel.run(args, b, h, t, std::min(a.queries, t + kAttentionQueries), scratch.data());
      }
    }
    return y;
  }

  AttentionArgs a;
  std::vector<float> query, key, value;
  std::unique_ptr<bool[]> mask;
};

void CheckAttention(const AttentionProblem& p, const std::vector<float>& y, const char* tier) {
  const AttentionArgs& a = p.a;
  std::vector<double> scores(static_cast<size_t>(a.keys));
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t h = 0; h < a.heads; ++h) {
      const int64_t kv = h / (a.heads / a.kv_heads);
      for (int64_t t = 0; t < a.queries; ++t) {
        double most = -INFINITY, total = 0;
        for (int64_t s = 0; s < a.keys; ++s) {
          double score = 0;
          for (int64_t i = 0; i < a.key_dim; ++i) {
            score += static_cast<double>(*At(p.query, ((b * a.queries + t) * a.heads + h) * a.key_dim + i)) *
                     *At(p.key, ((b * a.keys + s) * a.kv_heads + kv) * a.key_dim + i);
          }
          score *= a.scale;
          const int64_t* strides = a.mask_strides;
          if (a.mask != nullptr && !a.mask[b * strides[0] + h * strides[1] + t * strides[2] + s * strides[3]]) score = kMaskedScore;
          scores[static_cast<size_t>(s)] = score;
          most = std::max(most, score);
        }
        for (double& score : scores) total += score = std::exp(score - most);
        for (int64_t v = 0; v < a.value_dim; ++v) {
          double sum = 0, size = 0;
          for (int64_t s = 0; s < a.keys; ++s) {
            const double product =
                scores[static_cast<size_t>(s)] / total * *At(p.value, ((b * a.keys + s) * a.kv_heads + kv) * a.value_dim + v);
            sum += product;
            size += std::fabs(product);
          }
          if (a.zero_blind && most == kMaskedScore) sum = size = 0;
          const float got = *At(y, ((b * a.queries + t) * a.heads + h) * a.value_dim + v);
          // Scores of some 30 have errors of some 1e-5, which their exponentials multiply by.
          EXPECT(std::fabs(got - sum) <= 1e-4 * size + 1e-6, "%s: attention of %ld keys, %ld dimensions: %g of %g", tier,
                 static_cast<long>(a.keys), static_cast<long>(a.key_dim), static_cast<double>(got), sum);
        }
      }
    }
  }
}

// ---- Layer normalisation ---------------------------------------------------------------------------------------------------------

struct NormProblem {
  explicit NormProblem(Random& random) {
    a.rows = Size(random, 9);
    a.features = 1 + Size(random, 200);
    a.epsilon = 1e-3f;
    x = Normal(random, a.rows * a.features);
    gamma = Normal(random, a.features);
    beta = Normal(random, a.features);
    const float shift = static_cast<float>(Uniform(random, 0, 10));
    for (float& v : x) v += shift;
    a.x = x.data();
    a.gamma = OneIn(random, 3) ? nullptr : gamma.data();
    a.beta = OneIn(random, 3) ? nullptr : beta.data();
  }

  std::vector<float> Run(LayerNormRows& rows) const {
    std::vector<float> y(x);  // in place
    LayerNormArgs args = a;
    args.x = args.y = y.data();
    rows(args, 0, a.rows);
    return y;
  }

  LayerNormArgs a;
  std::vector<float> x, gamma, beta;
};

void CheckNorm(const NormProblem& p, const std::vector<float>& y, const char* tier) {
  const LayerNormArgs& a = p.a;
  for (int64_t row = 0; row < a.rows; ++row) {
    double mean = 0, variance = 0;
    const float* x = At(p.x, row * a.features);
    for (int64_t i = 0; i < a.features; ++i) mean += x[i];
    mean /= static_cast<double>(a.features);
    for (int64_t i = 0; i < a.features; ++i) variance += (x[i] - mean) * (x[i] - mean);
    variance /= static_cast<double>(a.features);
    for (int64_t i = 0; i < a.features; ++i) {
      const double scale = (a.gamma == nullptr ? 1 : a.gamma[i]) / std::sqrt(variance + a.epsilon);
      const double expected = (x[i] - mean) * scale + (a.beta == nullptr ? 0 : a.beta[i]);
      const double error = 1e-5 * (1 + std::fabs(expected)) + 3e-6 * std::fabs(scale) * std::fabs(mean);
      EXPECT(std::fabs(*At(y, row * a.features + i) - expected) <= error, "%s: norm of %ld features: %g of %g", tier,
             static_cast<long>(a.features), static_cast<double>(*At(y, row * a.features + i)), expected);
    }
  }
}

// ---- Sums ------------------------------------------------------------------------------------------------------------------------

struct AddProblem {
  explicit AddProblem(Random& random) {
    a.terms = Uniform(random, 1, 4);
    a.count = Size(random, 1500);
    a.activation =
        OneIn(random, 2) ? Activation::kRelu : static_cast<Activation>(Uniform(random, 0, static_cast<int64_t>(Activation::kCount) - 1));
    for (int64_t t = 0; t < a.terms; ++t) x.push_back(Normal(random, a.count));
  }

  std::vector<float> Run(AddRange& range) const {
    std::vector<float> y(x.back());  // in place
    std::vector<const void*> terms;
    for (const std::vector<float>& term : x) terms.push_back(term.data());
    terms.back() = y.data();
    AddArgs args = a;
    args.x = terms.data();
    args.y = y.data();
    const int64_t middle = a.count / 3;
    range(args, 0, middle);
    range(args, middle, a.count);
    return y;
  }

  AddArgs a;
  std::vector<std::vector<float>> x;
};

void CheckAdd(const AddProblem& p, const std::vector<float>& y, const char* tier) {
  for (int64_t i = 0; i < p.a.count; ++i) {
    double sum = 0, size = 0;
    for (const std::vector<float>& term : p.x) {
      sum += *At(term, i);
      size += std::fabs(*At(term, i));
    }
    EXPECT(IsActivated(p.a.activation, ElementType::kFloat32, sum, 3e-7 * size, *At(y, i)), "%s: sum, activation %d: %g of %g", tier,
           static_cast<int>(p.a.activation), static_cast<double>(*At(y, i)), sum);
  }
}

// Enough work for several threads: the same bits as on one.
void TestThreads(Random& random) {
  WorkerThreads pool(3);
  SingleThread one;
  AttentionProblem p(random);
  AttentionArgs& a = p.a;
  a = AttentionArgs();
  a.batch = 2, a.queries = 130, a.keys = 300, a.kv_heads = 2, a.heads = 6, a.key_dim = 24, a.value_dim = 40, a.scale = 0.2f;
  p.query = Normal(random, a.batch * a.queries * a.heads * a.key_dim);
  p.key = Normal(random, a.batch * a.keys * a.kv_heads * a.key_dim);
  p.value = Normal(random, a.batch * a.keys * a.kv_heads * a.value_dim);
  a.query = p.query.data(), a.key = p.key.data(), a.value = p.value.data();
  std::vector<float> single(static_cast<size_t>(a.batch * a.queries * a.heads * a.value_dim), NAN), several(single);
  for (ThreadPool* threads : {static_cast<ThreadPool*>(&one), static_cast<ThreadPool*>(&pool)}) {
    a.y = threads == &one ? single.data() : several.data();
    Scratch scratch(AttentionScratchBytes(a, *threads));
    Attention(a, threads, scratch.data());
  }
  EXPECT(single == several, "threads change attention");
  CheckAttention(p, single, "threads");

  LayerNormArgs norm;
  norm.rows = 900, norm.features = 100, norm.epsilon = 1e-6f;
  const std::vector<float> x = Normal(random, norm.rows * norm.features);
  norm.x = x.data();
  AddArgs add;
  const void* terms[] = {x.data(), x.data()};
  add.x = terms, add.terms = 2, add.count = static_cast<int64_t>(x.size());
  std::vector<float> y[4];
  for (int i = 0; i < 4; ++i) {
    y[i].assign(x.size(), NAN);
    ThreadPool* threads = i % 2 == 0 ? static_cast<ThreadPool*>(&one) : &pool;
    norm.y = add.y = y[i].data();
    if (i < 2) {
      LayerNorm(norm, threads);
    } else {
      Add(add, threads);
    }
  }
  EXPECT(y[0] == y[1], "threads change normalisation");
  EXPECT(y[2] == y[3], "threads change sums");
}

int Main(int cases, uint64_t seed) {
  std::printf("float_ops_test: %d cases, seed %lu\n", cases, static_cast<unsigned long>(seed));
  Random random(seed);
  const auto name = [](Tier tier) { return kTierNames[static_cast<int>(tier)]; };
  for (int i = 0; i < cases; ++i) {
    const NormProblem norm(random);
    const std::vector<float> first = norm.Run(LayerNormRowsPortable);
    for (const Tier tier : DistinctTiers(LayerNormRowsFor)) {
      const std::vector<float> y = norm.Run(LayerNormRowsFor(tier));
      CheckNorm(norm, y, name(tier));
      EXPECT(y == first, "%s: other bits than %s", name(tier), kTierNames[0]);
    }
    const AddProblem add(random);
    for (const Tier tier : DistinctTiers(AddRangeFor)) CheckAdd(add, add.Run(AddRangeFor(tier)), name(tier));
    if (i % 5 != 0) continue;
    const AttentionProblem attention(random);
    for (const Tier tier : DistinctTiers(AttentionKernelFor))
      CheckAttention(attention, attention.Run(AttentionKernelFor(tier)), name(tier));
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
