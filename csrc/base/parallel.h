// How kernels ask for parallel work without knowing who owns the threads.
#ifndef TFCOMPRESS_BASE_PARALLEL_H_
#define TFCOMPRESS_BASE_PARALLEL_H_

#include <cstdint>

namespace tfcompress {

// A borrowed callable void(int64_t task): two words, no allocation. The callable must outlive the call that it is passed to.
class TaskRef {
 public:
  template <typename F>
  TaskRef(const F& f)  // NOLINT(google-explicit-constructor): a lambda is passed where a TaskRef is expected
      : object_(&f), call_([](const void* object, int64_t task) { (*static_cast<const F*>(object))(task); }) {}
  void operator()(int64_t task) const { call_(object_, task); }

 private:
  const void* object_;
  void (*call_)(const void*, int64_t);
};

class ThreadPool {
 public:
  virtual ~ThreadPool() = default;
  // How many tasks may run at once, the calling thread included; >= 1.
  virtual int NumThreads() const = 0;
  // Runs task(0) ... task(num_tasks - 1), in any order, and returns when all have ended. Tasks must not block on each other.
  virtual void Run(int64_t num_tasks, TaskRef task) = 0;
};

// Runs everything on the calling thread.
class SingleThread final : public ThreadPool {
 public:
  int NumThreads() const override { return 1; }
  void Run(int64_t num_tasks, TaskRef task) override {
    for (int64_t i = 0; i < num_tasks; ++i) task(i);
  }
};

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_PARALLEL_H_
