// What the bindings of every format need: checks with uniform messages, thread pools, scratch memory.
#ifndef TFCOMPRESS_PYTHON_MODULE_SUPPORT_H_
#define TFCOMPRESS_PYTHON_MODULE_SUPPORT_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "base/cpu.h"
#include "python/thread_pool.h"

namespace tfcompress {

namespace py = pybind11;

// A format's bindings in a file of their own.
void BindBinary(py::module_& m);

inline constexpr int kMostThreads = 256;

// Floating-point arrays are converted to float32; integers must have the type that is asked for: nothing is cut off silently.
template <typename T>
using Dense = py::array_t<T, std::is_floating_point<T>::value ? py::array::c_style | py::array::forcecast : py::array::c_style>;
using OptionalFloats = std::optional<Dense<float>>;

inline std::string ShapeOf(const py::array& array) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text += std::to_string(array.shape(i)) + (i + 1 < array.ndim() ? ", " : "");
  return text + (array.ndim() == 1 ? ",)" : ")");
}

inline void Require(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);  // ValueError
}

inline void RequireRank(const py::array& array, const char* name, py::ssize_t rank) {
  Require(array.ndim() == rank,
          std::string("`") + name + "` must have rank " + std::to_string(rank) + "; received shape " + ShapeOf(array) + ".");
}

inline void RequireLength(const py::array& array, const char* name, int64_t length) {
  Require(array.ndim() == 1 && array.shape(0) == length, std::string("`") + name + "` must have shape (" +
                                                             std::to_string(length) + ",); received shape " + ShapeOf(array) +
                                                             ".");
}

inline void RequireTier() {
  std::string error;
  ActiveTier(&error);
  Require(error.empty(), error);
}

template <typename Enum, size_t kCount>
Enum ParseName(const std::string& name, const char* argument, const char* const (&names)[kCount]) {
  std::string known;
  for (size_t i = 0; i < kCount; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
    known += std::string(known.empty() ? "'" : ", '") + names[i] + "'";
  }
  throw std::invalid_argument(std::string("`") + argument + "` must be one of " + known + "; received '" + name + "'.");
}

// One pool per number of threads, made at first use and kept: kernels are measured many times. Taken by one call at a time.
class SharedPools {
 public:
  template <typename F>
  void With(int num_threads, const F& f) {
    Require(num_threads >= 1 && num_threads <= kMostThreads, "`threads` must be from 1 to " + std::to_string(kMostThreads) + "; received " + std::to_string(num_threads) + ".");
    py::gil_scoped_release release;
    if (num_threads == 1) {
      SingleThread single;
      f(&single);
      return;
    }
    std::lock_guard<std::mutex> lock(mutex_);
    auto& pool = pools_[num_threads];
    if (pool == nullptr) pool = std::make_unique<WorkerThreads>(num_threads);
    f(pool.get());
  }

 private:
  std::mutex mutex_;
  std::map<int, std::unique_ptr<WorkerThreads>> pools_;
};

inline SharedPools& Pools() {
  static SharedPools* pools = new SharedPools;  // never destroyed: threads must not be joined while the interpreter goes down
  return *pools;
}

// A product of a format on `threads` threads, with the scratch memory that it asks for.
template <typename Args>
void RunMatMul(const Args& args, int64_t (*workspace_bytes)(const Args&, int), void (*matmul)(const Args&, void*, ThreadPool*), int threads) {
  Pools().With(threads, [&](ThreadPool* pool) {
    std::vector<char> workspace(static_cast<size_t>(workspace_bytes(args, pool->NumThreads())) + 64);
    const auto address = reinterpret_cast<uintptr_t>(workspace.data());
    matmul(args, reinterpret_cast<void*>((address + 63) / 64 * 64), pool);
  });
}

}  // namespace tfcompress

#endif  // TFCOMPRESS_PYTHON_MODULE_SUPPORT_H_
