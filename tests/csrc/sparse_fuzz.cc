// Malformed matrices. Packed arrays are changed at random; whatever CheckMatrix accepts of them is multiplied by both kinds of kernels on every
// tier, unpacked, dequantised and differentiated. Sanitizers report what is read or written outside of a block, and undefined behaviour.
//
// What a malformed matrix multiplies to is defined as well, but for places that are marked as empty and hold a value: an index is taken modulo
// the reach. With int8 values the sums are exact, so that all kernels must agree with a plain loop.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "sparse_testing.h"

namespace tfcompress::sparse {
namespace {

using namespace tfcompress::testing;  // NOLINT(google-build-using-namespace)

constexpr int kMutationsOfOneMatrix = 40;

// Workers take turns, so that every worker's scratch memory is used, without threads.
class InTurn final : public ThreadPool {
 public:
  int NumThreads() const override { return 3; }
  void Run(int64_t groups, int64_t tasks, TaskRef task) override {
    const int64_t workers = std::min<int64_t>(3, groups * tasks);
    for (int64_t i = 0; i < groups * tasks; ++i) task(i / tasks, i % tasks, static_cast<int>(i % workers));
  }
};

int64_t Pick(Random& random, std::initializer_list<int64_t> values) { return values.begin()[Uniform(random, 0, static_cast<int64_t>(values.size()) - 1)]; }

// A small matrix with nonzeros at random places, in some outputs more than in others.
Arrays MakeArrays(Random& random) {
  const Flavour& flavour = kFlavours[Uniform(random, 0, 3)];
  const int64_t k = Size(random, 200), n = Size(random, 40);
  const int64_t bytes = ValueBytes(flavour.values), every = Pick(random, {1, 3, 8, 20});
  std::vector<char> weights(static_cast<size_t>(k * n * bytes));
  for (int64_t i = 0; i < k * n; ++i) {
    if (!OneIn(random, every * (1 + i % n % 3))) continue;
    for (int64_t b = 0; b < bytes; ++b) weights[i * bytes + b] = static_cast<char>(Uniform(random, 0, 255));
  }
  return PackArrays(weights.data(), flavour, k, n);
}

// ---- Mutations ----------------------------------------------------------------------------------------------------------------

struct Bytes {
  char* data;
  int64_t size;
};
template <typename T>
Bytes BytesOf(std::vector<T>& array) {
  return {reinterpret_cast<char*>(array.data()), static_cast<int64_t>(array.size() * sizeof(T))};
}

void ChangeBytes(Random& random, Arrays* a) {
  const Bytes all[] = {BytesOf(a->windows), BytesOf(a->indices), BytesOf(a->values), BytesOf(a->panels), BytesOf(a->order)};
  // Indices and values may hold anything; a byte elsewhere is usually refused.
  const Bytes& bytes = all[Pick(random, {0, 1, 1, 1, 2, 2, 2, 3, 4})];
  for (int64_t i = Uniform(random, 1, 8); i > 0 && bytes.size > 0; --i) {
    bytes.data[Uniform(random, 0, bytes.size - 1)] = static_cast<char>(Pick(random, {0, 1, 63, 64, 127, 128, 255, Uniform(random, 0, 255)}));
  }
}

// One element becomes one that is likely to do harm.
void ChangeElement(Random& random, Arrays* a) {
  constexpr int64_t kLeast = std::numeric_limits<int32_t>::min(), kMost = std::numeric_limits<int32_t>::max();
  const auto any = [&](const auto& array) { return static_cast<size_t>(Uniform(random, 0, static_cast<int64_t>(array.size()) - 1)); };
  const auto steps = static_cast<int64_t>(a->windows.size());
  const int64_t windows = NumWindows(a->flavour.values, a->k);
  switch (Uniform(random, 0, 2)) {
    case 0:
      if (steps > 0) a->windows[any(a->windows)] = static_cast<uint16_t>(Pick(random, {0, windows - 1, windows - 1, windows, 65535}));
      break;
    case 1:
      a->panels[any(a->panels)] = static_cast<int32_t>(Pick(random, {0, steps, steps, steps / 2, steps - 1, steps + 1, -1, kLeast, kMost}));
      break;
    default:
      if (a->n == 0) break;
      std::swap(a->order[any(a->order)], a->order[any(a->order)]);
      if (OneIn(random, 2)) a->order[any(a->order)] = static_cast<int32_t>(Pick(random, {0, a->n - 1, a->n, -1, kLeast, kMost}));
  }
}

// Fewer or more steps than there were, known to the panels or not.
void ChangeSteps(Random& random, Arrays* a) {
  const auto steps = static_cast<int64_t>(a->windows.size());
  const int64_t more = std::max(-steps, Pick(random, {-100, -9, -1, 1, 9, 300}));
  const int64_t entries = StepEntries(a->flavour.values), last = std::max<int64_t>(NumWindows(a->flavour.values, a->k) - 1, 0);
  a->windows.resize(static_cast<size_t>(steps + more));
  a->indices.resize(static_cast<size_t>((steps + more) * entries));
  a->values.resize(static_cast<size_t>((steps + more) * entries * ValueBytes(a->flavour.values)));
  for (int64_t s = steps; s < steps + more; ++s) a->windows[s] = static_cast<uint16_t>(Uniform(random, 0, last));
  if (OneIn(random, 4)) return;
  for (int32_t& panel : a->panels) panel = std::min(panel, static_cast<int32_t>(steps + more));
  a->panels.back() = static_cast<int32_t>(steps + more);
}

// Another order of the steps, another division among the panels, arrays in each other's place.
void ChangeArrays(Random& random, Arrays* a) {
  const auto copy = [](const Bytes& from, const Bytes& to) {
    if (std::min(from.size, to.size) > 0) std::memmove(to.data, from.data, static_cast<size_t>(std::min(from.size, to.size)));
  };
  const int64_t steps = static_cast<int64_t>(a->windows.size()), panels = static_cast<int64_t>(a->panels.size());
  switch (Uniform(random, 0, 7)) {
    case 0:
      std::reverse(a->windows.begin(), a->windows.end());
      break;
    case 1:
      std::shuffle(a->windows.begin(), a->windows.end(), random);
      break;
    case 2:  // all steps in one panel
      std::fill(a->panels.begin(), a->panels.begin() + Uniform(random, 0, panels - 1), 0);
      std::fill(std::find_if(a->panels.begin(), a->panels.end(), [](int32_t p) { return p != 0; }), a->panels.end(), static_cast<int32_t>(steps));
      break;
    case 3:
      for (int64_t p = 1; p + 1 < panels; ++p) a->panels[p] = static_cast<int32_t>(Uniform(random, 0, steps));
      std::sort(a->panels.begin(), a->panels.end());
      break;
    case 4:
      copy(BytesOf(a->values), BytesOf(a->indices));
      break;
    case 5:
      copy(BytesOf(a->indices), BytesOf(a->values));
      break;
    case 6:
      copy(BytesOf(a->indices), BytesOf(a->windows));
      break;
    default:
      copy(BytesOf(a->panels), BytesOf(a->order));
  }
}

// The arrays of a matrix of another size or kind.
void ChangeShape(Random& random, Arrays* a) {
  switch (Uniform(random, 0, 3)) {
    case 0:
      a->k = Pick(random, {0, 1, a->k - 1, a->k + 1, Uniform(random, 0, 260)});
      break;
    case 1:
      a->k = Pick(random, {-1, -(int64_t{1} << 62), MostInFeatures(a->flavour.values) + 1, int64_t{1} << 62});
      break;
    case 2:
      a->flavour.reach = Pick(random, {64, 64, 128, 128, 0, -64, 32, 65, 256, std::numeric_limits<int64_t>::max()});
      break;
    default: {
      const auto steps = static_cast<int64_t>(a->windows.size());
      a->flavour = kFlavours[Uniform(random, 0, 3)];
      a->indices.resize(static_cast<size_t>(steps * StepEntries(a->flavour.values)));
      a->values.resize(static_cast<size_t>(steps * StepEntries(a->flavour.values) * ValueBytes(a->flavour.values)));
    }
  }
}

void Mutate(Random& random, Arrays* a) {
  constexpr void (*kMutations[])(Random&, Arrays*) = {ChangeBytes, ChangeBytes, ChangeBytes, ChangeElement, ChangeSteps, ChangeArrays, ChangeShape};
  for (int64_t times = Pick(random, {1, 1, 2, 3}); times > 0; --times) kMutations[Uniform(random, 0, 6)](random, a);
}

// ---- Uses ---------------------------------------------------------------------------------------------------------------------

// int8 sums over all places of all steps, or over those that are not marked as empty, modulo 2^32.
std::vector<int32_t> Sums(const MatMulArgs& args, const Rows& x, bool empty_places) {
  const Matrix& a = args.matrix;
  std::vector<int32_t> sums(static_cast<size_t>(args.m * a.n));
  for (int64_t r = 0; r < args.m; ++r) {
    const Quantized row = QuantizeReference(x.values.data() + r * a.k, a.k, 0.0f);
    for (int64_t panel = 0; panel < NumPanels(a.n); ++panel) {
      for (int64_t at = a.panels[panel] * int64_t{64}; at < a.panels[panel + 1] * int64_t{64}; ++at) {
        const int64_t k = a.windows[at / 64] * int64_t{64} + a.indices[at] % a.reach, place = panel * kLanes + at % 64 / 4;
        if (k >= a.k || place >= a.n || (a.indices[at] >= kPadding && !empty_places)) continue;
        int32_t& sum = sums[r * a.n + a.order[place]];
        sum = static_cast<int32_t>(static_cast<uint32_t>(sum) +
                                   static_cast<uint32_t>(row.q[k] * static_cast<const int8_t*>(a.values)[at]));
      }
    }
  }
  return sums;
}

void MultiplyAll(Random& random, const std::vector<Tier>& tiers, const Matrix& matrix, int64_t m) {
  const Rows x = MakeRows(random, m, matrix.k);
  const std::vector<float> bias(static_cast<size_t>(matrix.n), 1.0f), scale(bias);
  const bool is_int8 = matrix.values_type == Values::kInt8;
  MatMulArgs a;
  a.m = m;
  a.x = x.data();
  a.x_type = x.type;
  a.x_stride = x.stride;
  a.matrix = matrix;
  a.scale = is_int8 ? scale.data() : nullptr;
  a.bias = bias.data();
  a.y_type = is_int8 ? ElementType::kInt32 : static_cast<ElementType>(Uniform(random, 0, 2));
  a.y_stride = matrix.n;
  const int64_t y_bytes = m * matrix.n * (is_int8 || a.y_type == ElementType::kFloat32 ? 4 : 2);
  std::vector<int32_t> sums[2];
  for (int empty_places = 0; is_int8 && empty_places < 2; ++empty_places) sums[empty_places] = Sums(a, x, empty_places == 1);
  const auto check = [&](const std::vector<char>& y, const std::string& who) {
    if (!is_int8 || y.empty()) return;
    const auto is = [&](const std::vector<int32_t>& expected) { return std::memcmp(y.data(), expected.data(), y.size()) == 0; };
    EXPECT(is(sums[0]) || is(sums[1]), "%s: other int8 sums: m %ld k %ld n %ld steps %ld reach %ld", who.c_str(), static_cast<long>(m), static_cast<long>(matrix.k),
           static_cast<long>(matrix.n), static_cast<long>(matrix.steps), static_cast<long>(matrix.reach));
  };
  const std::string error = CheckMatMul(&a);
  EXPECT(error.empty(), "%s", error.c_str());
  for (const Tier tier : tiers) {
    for (const Kind kind : {Kind::kRows, Kind::kColumns}) {
      std::vector<char> y(static_cast<size_t>(y_bytes), 99);
      a.y = y.data();
      Compute(KernelsFor(tier), kind, a, {{0, m, 0, NumPanels(matrix.n)}});
      check(y, std::string(kTierNames[static_cast<int>(tier)]) + (kind == Kind::kRows ? " rows" : " columns"));
    }
  }
  std::vector<char> y(static_cast<size_t>(y_bytes), 99);
  a.y = y.data();
  InTurn pool;
  Scratch workspace(WorkspaceBytes(a, pool.NumThreads()));
  MatMul(a, workspace.data(), &pool);
  check(y, "MatMul");
}

void UseOtherwise(Random& random, const Matrix& matrix) {
  std::vector<char> unpacked(static_cast<size_t>(matrix.k * matrix.n * ValueBytes(matrix.values_type)));
  Unpack(matrix, unpacked.data());
  std::vector<float> weights(static_cast<size_t>(matrix.k * matrix.n));
  const std::vector<float> scale(static_cast<size_t>(matrix.n), 0.5f);
  InTurn pool;
  Dequantize(matrix, OneIn(random, 2) ? scale.data() : nullptr, weights.data(), &pool);
  if (matrix.values_type != Values::kFloat32) return;
  const int64_t m = Pick(random, {0, 1, 3, 65});
  const std::vector<float> x(static_cast<size_t>(m * matrix.k), 1.0f), dz(static_cast<size_t>(m * matrix.n), 1.0f);
  std::vector<float> gradient(static_cast<size_t>(matrix.steps * StepEntries(matrix.values_type)));
  ValuesGradient(matrix, x.data(), dz.data(), m, gradient.data(), &pool);
}

// Whether the matrix was accepted.
bool Use(Random& random, const std::vector<Tier>& tiers, Matrix matrix) {
  if (!CheckMatrix(&matrix).empty()) return false;
  MultiplyAll(random, tiers, matrix, Pick(random, {0, 1, 2, 5, 9, 17, 18}));
  UseOtherwise(random, matrix);
  return true;
}

// The arrays as one, cut off, lengthened or changed anywhere.
bool UseStructure(Random& random, const std::vector<Tier>& tiers, const Arrays& arrays) {
  std::vector<uint8_t> structure = StructureOf(arrays);
  const auto bytes = static_cast<int64_t>(structure.size());
  if (OneIn(random, 2)) structure.resize(static_cast<size_t>(std::max<int64_t>(0, bytes + Pick(random, {-bytes, -66, -8, -4, -1, 1, 4, 8, 66}))));
  if (OneIn(random, 2) && !structure.empty()) {
    structure[static_cast<size_t>(Uniform(random, 0, static_cast<int64_t>(structure.size()) - 1))] = static_cast<uint8_t>(Uniform(random, 0, 255));
  }
  const std::vector<uint8_t> exact(structure);
  Matrix matrix = arrays.View();
  return SetStructure(exact.data(), static_cast<int64_t>(exact.size()), &matrix).empty() && Use(random, tiers, matrix);
}

// More steps than a matrix can need: sums, and the sums of the weights, wrap around.
void UseManySteps(Random& random, const std::vector<Tier>& tiers) {
  constexpr int64_t kSteps = 70'000;
  for (const int64_t reach : {int64_t{64}, int64_t{128}}) {
    const int64_t entries = StepEntries(Values::kInt8);
    const Arrays arrays = {{Values::kInt8, reach},
                           64,
                           3,
                           std::vector<uint16_t>(kSteps),
                           std::vector<uint8_t>(kSteps * entries, 7),
                           std::vector<char>(kSteps * entries, -128),
                           {0, kSteps},
                           {2, 0, 1}};
    MultiplyAll(random, tiers, arrays.View(), 3);
  }
}

}  // namespace

void Fuzz(int mutations, uint64_t seed) {
  std::printf("sparse_test: %d mutations, seed %lu\n", mutations, static_cast<unsigned long>(seed));
  const std::vector<Tier> tiers = DistinctTiers(KernelsFor);
  Random random(seed);
  UseManySteps(random, tiers);
  int accepted = 0;
  Arrays arrays;
  for (int i = 0; i < mutations; ++i) {
    if (i % kMutationsOfOneMatrix == 0) arrays = MakeArrays(random);
    Arrays mutated = arrays;
    Mutate(random, &mutated);
    const Arrays exact = mutated;  // copies have no spare capacity
    accepted += OneIn(random, 8) ? UseStructure(random, tiers, exact) : Use(random, tiers, exact.View());
  }
  std::printf("%d accepted\n", accepted);
  EXPECT(accepted > mutations / 4, "too few to learn from");
}

}  // namespace tfcompress::sparse
