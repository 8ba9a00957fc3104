// How kernels ask for parallel work without knowing who owns the threads.
#ifndef TFCOMPRESS_BASE_PARALLEL_H_
#define TFCOMPRESS_BASE_PARALLEL_H_

#include <atomic>
#include <cstdint>
#include <memory>

namespace tfcompress {

// A borrowed callable void(int64_t group, int64_t index, int worker): two words, no allocation. The callable must outlive the call that
// it is passed to.
class TaskRef {
 public:
  template <typename F>
  TaskRef(const F& f)  // NOLINT(google-explicit-constructor): a lambda is passed where a TaskRef is expected
      : object_(&f), call_([](const void* object, int64_t group, int64_t index, int worker) {
          (*static_cast<const F*>(object))(group, index, worker);
        }) {}
  void operator()(int64_t group, int64_t index, int worker) const { call_(object_, group, index, worker); }

 private:
  const void* object_;
  void (*call_)(const void*, int64_t, int64_t, int);
};

class ThreadPool {
 public:
  virtual ~ThreadPool() = default;
  // How many workers may run at once, the calling thread included; >= 1.
  virtual int NumThreads() const = 0;
  // Runs task(group, index, worker) for 0 <= group < groups, 0 <= index < tasks, and returns when all have ended. The workers, at most
  // as many as NumThreads() and as there are tasks, numbered from 0, take tasks as they come free, each from a group of its own
  // first: what a worker prepared for a group serves its next task there. A worker runs one task at a time; tasks must not
  // wait for each other.
  virtual void Run(int64_t groups, int64_t tasks, TaskRef task) = 0;
};

// Runs everything on the calling thread.
class SingleThread final : public ThreadPool {
 public:
  int NumThreads() const override { return 1; }
  void Run(int64_t groups, int64_t tasks, TaskRef task) override {
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t i = 0; i < tasks; ++i) task(group, i, 0);
    }
  }
};

// One call of ThreadPool::Run, shared by the workers that take part. It ends when its tasks have ended, not when all who
// were asked have come: a worker that wakes late finds no task left and touches nothing but this object, which it owns a share of.
class Job {
 public:
  Job(int64_t groups, int64_t tasks, int num_threads, TaskRef task)
      : groups_(groups),
        tasks_(tasks),
        workers_(static_cast<int>(groups * tasks < num_threads ? groups * tasks : num_threads)),
        task_(task),
        unfinished_(groups * tasks),
        next_(new Counter[groups]) {}

  int workers() const { return workers_; }

  // Takes and runs tasks until none is left. Worker numbers beyond workers() do nothing.
  void Work(int worker) {
    if (worker >= workers_) return;
    const int64_t first = groups_ * worker / workers_;
    for (int64_t i = 0; i < groups_; ++i) {
      const int64_t group = (first + i) % groups_;
      for (;;) {
        const int64_t index = next_[group].value.fetch_add(1, std::memory_order_relaxed);
        if (index >= tasks_) break;
        task_(group, index, worker);
        unfinished_.fetch_sub(1, std::memory_order_release);
      }
    }
  }

  bool Finished() const { return unfinished_.load(std::memory_order_acquire) == 0; }

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> value{0};
  };

  const int64_t groups_;
  const int64_t tasks_;
  const int workers_;
  const TaskRef task_;  // called only while a task is unfinished, that is, while Run has not returned
  std::atomic<int64_t> unfinished_;
  std::unique_ptr<Counter[]> next_;
};

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_PARALLEL_H_
