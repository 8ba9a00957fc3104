// How kernels ask for parallel work without knowing who owns the threads.
#ifndef TFCOMPRESS_BASE_PARALLEL_H_
#define TFCOMPRESS_BASE_PARALLEL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace tfcompress {

// A borrowed callable void(int64_t group, int64_t index, int worker): no allocation. The callable must outlive the call that it is
// passed to. What it captures by value reaches another core sooner than what it refers to: see Prefetch().
class TaskRef {
 public:
  template <typename F>
  TaskRef(const F& f)  // NOLINT(google-explicit-constructor): a lambda is passed where a TaskRef is expected
      : object_(&f), bytes_(sizeof(F)), call_([](const void* object, int64_t group, int64_t index, int worker) {
          (*static_cast<const F*>(object))(group, index, worker);
        }) {}
  void operator()(int64_t group, int64_t index, int worker) const { call_(object_, group, index, worker); }
  // Fetches the callable, all its cache lines at once.
  void Prefetch() const {
    for (size_t i = 0; i < bytes_; i += 64) __builtin_prefetch(static_cast<const char*>(object_) + i);
  }

 private:
  const void* object_;
  size_t bytes_;
  void (*call_)(const void*, int64_t, int64_t, int);
};

class ThreadPool {
 public:
  virtual ~ThreadPool() = default;
  // How many workers may run at once, the calling thread included; >= 1.
  virtual int NumThreads() const = 0;
  // Runs task(group, index, worker) for 0 <= group < groups, 0 <= index < tasks, and returns when all have ended. The workers, at most
  // as many as NumThreads() and as there are tasks, numbered from 0, take tasks as they come free, each from a group, or a part of one,
  // of its own first: what a worker prepared for a group serves its next task there. A worker runs one task at a time; tasks must not
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

// One call of ThreadPool::Run, worked on by all who hold a Share of it. It ends when its tasks have ended, not when all who
// were asked have come: a worker that wakes late finds no task left and touches nothing but this object, which lives as long as its shares.
//
// Small layers take as long as a few dozen cache lines take from core to core (0.2 us each where cores share no cache), so:
// - Tasks lie in lanes, each a range of one group's tasks with a counter of its own, at least one lane for each worker. A worker empties its own
//   lane before it looks into others': while all are busy no counter moves. (Two cores, 16 tasks of one counter: 1 us of 8.)
// - Unfinished tasks and shares are counted in one word, which a helper changes once, when it leaves.
// - It is one block of memory, and workers fetch the task's captures at once.
class Job {
 public:
  class Share;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  // Workers that there is work for.
  int workers() const { return workers_; }

 private:
  // One on a cache line, whatever the alignment.
  struct Counter {
    std::atomic<int64_t> value{0};
    char others[56];
  };

  static constexpr int64_t kShare = int64_t{1} << 48;  // tasks are counted below it

  Job(int64_t groups, int64_t tasks, int workers, TaskRef task)
      : state_(kShare + groups * tasks),
        tasks_(tasks),
        workers_(workers),
        lanes_per_group_(LanesPerGroup(groups, workers)),
        lanes_(groups * lanes_per_group_),
        task_(task) {}

  static int64_t LanesPerGroup(int64_t groups, int workers) { return groups == 0 ? 0 : (workers + groups - 1) / groups; }

  static Job* New(int64_t groups, int64_t tasks, int num_threads, TaskRef task) {
    const int workers = static_cast<int>(groups * tasks < num_threads ? groups * tasks : num_threads);
    const int64_t lanes = groups * LanesPerGroup(groups, workers);
    void* const memory = ::operator new(sizeof(Job) + lanes * sizeof(Counter));
    Job* const job = new (memory) Job(groups, tasks, workers, task);
    for (int64_t i = 0; i < lanes; ++i) new (job->Taken(i)) Counter;
    return job;
  }

  void Delete() {
    this->~Job();
    ::operator delete(this);
  }

  // Tasks of a lane that were taken.
  Counter* Taken(int64_t lane) { return reinterpret_cast<Counter*>(this + 1) + lane; }

  // Takes and runs tasks until none is left; returns how many it ran, which are unfinished until they are taken from state_. Worker numbers
  // beyond workers() do nothing.
  int64_t Work(int worker) {
    if (worker >= workers_) return 0;
    task_.Prefetch();
    const int64_t own = lanes_ * worker / workers_;
    int64_t ran = 0;
    for (int64_t i = 0; i < lanes_; ++i) ran += WorkOn((own + i) % lanes_, worker);
    return ran;
  }

  int64_t WorkOn(int64_t lane, int worker) {
    const int64_t group = lane / lanes_per_group_, part = lane % lanes_per_group_;
    const int64_t begin = tasks_ * part / lanes_per_group_, size = tasks_ * (part + 1) / lanes_per_group_ - begin;
    std::atomic<int64_t>& taken = Taken(lane)->value;
    int64_t ran = 0;
    while (taken.load(std::memory_order_relaxed) < size) {  // looking into an empty lane leaves it to those who look as well
      const int64_t index = taken.fetch_add(1, std::memory_order_relaxed);
      if (index >= size) break;
      task_(group, begin + index, worker);
      ++ran;
    }
    return ran;
  }

  // Ends a share, whose worker ran so many tasks.
  void Leave(int64_t ran) {
    const int64_t mine = kShare + ran;
    if (state_.fetch_sub(mine, std::memory_order_acq_rel) == mine) Delete();
  }

  // Waits until only `ran` tasks are unfinished, those of this share, and ends it; where nobody else holds one, without a write.
  template <typename Idle>
  void LeaveLast(int64_t ran, const Idle& idle) {
    int64_t state;
    while ((state = state_.load(std::memory_order_acquire)) % kShare != ran) idle();
    if (state == kShare + ran) return Delete();
    Leave(ran);
  }

  std::atomic<int64_t> state_;  // shares * kShare + unfinished tasks
  char others_[56];
  const int64_t tasks_;
  const int workers_;
  const int64_t lanes_per_group_;
  const int64_t lanes_;
  const TaskRef task_;  // called only while a task is unfinished, that is, while Run has not returned
};

class Job::Share {
 public:
  Share() = default;
  Share(int64_t groups, int64_t tasks, int num_threads, TaskRef task) : job_(New(groups, tasks, num_threads, task)) {}
  Share(const Share& other) : job_(other.job_) {
    if (job_ != nullptr) job_->state_.fetch_add(kShare, std::memory_order_relaxed);
  }
  Share(Share&& other) noexcept : job_(std::exchange(other.job_, nullptr)) {}
  Share& operator=(Share other) noexcept {
    std::swap(job_, other.job_);
    return *this;
  }
  ~Share() {
    if (job_ != nullptr) job_->Leave(0);
  }

  explicit operator bool() const { return job_ != nullptr; }
  int workers() const { return job_->workers(); }

  // By a helper: runs tasks until none is left, and gives up the share.
  void Work(int worker) {
    Job* const job = std::exchange(job_, nullptr);
    job->Leave(job->Work(worker));
  }

  // By who started the job: runs tasks until none is left, calls idle() until all have ended, and gives up the share.
  template <typename Idle>
  void Finish(const Idle& idle) {
    Job* const job = std::exchange(job_, nullptr);
    job->LeaveLast(job->Work(0), idle);
  }

 private:
  Job* job_ = nullptr;
};

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_PARALLEL_H_
