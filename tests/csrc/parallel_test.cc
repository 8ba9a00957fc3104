// Both thread pools under load: every task runs exactly once, before Run returns, on a worker that no other task uses at that time;
// several callers share one pool; helpers come late, or never in time. Built with ThreadSanitizer, it looks for races too.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/team.h"
#include "python/thread_pool.h"

namespace tfcompress {
namespace {

std::atomic<int> failures{0};

void Expect(bool ok, const char* what) {
  if (!ok && failures.fetch_add(1) < 20) std::printf("failed: %s\n", what);
}

// A queue of closures and threads that run them: what TensorFlow's pool is to the ops.
class Closures {
 public:
  explicit Closures(int num_threads) {
    for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Loop(); });
  }
  ~Closures() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  void Schedule(std::function<void()> closure) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(std::move(closure));
    }
    wake_.notify_one();
  }

 private:
  void Loop() {
    for (;;) {
      std::function<void()> closure;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || !queue_.empty(); });
        if (queue_.empty()) return;
        closure = std::move(queue_.front());
        queue_.pop_front();
      }
      closure();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

class HelperThreads final : public ThreadPool {
 public:
  HelperThreads(Closures* closures, int num_threads) : closures_(closures), num_threads_(num_threads) {}
  int NumThreads() const override { return num_threads_; }
  void Run(int64_t groups, int64_t tasks, TaskRef task) override {
    RunWithHelpers(closures_, [this](std::function<void()> f) { closures_->Schedule(std::move(f)); }, num_threads_, groups, tasks, task);
  }

 private:
  Closures* closures_;
  int num_threads_;
};

void Drive(ThreadPool* pool, int rounds, unsigned seed) {
  for (int round = 0; round < rounds; ++round) {
    seed = seed * 1664525u + 1013904223u;
    const int64_t groups = 1 + (seed >> 8) % 4, tasks = 1 + (seed >> 16) % 9;
    std::vector<int> runs(static_cast<size_t>(groups * tasks), 0);  // not atomic: each task is run by one worker
    std::vector<std::atomic<bool>> busy(static_cast<size_t>(pool->NumThreads()));
    int64_t scratch[8] = {};
    pool->Run(groups, tasks, [&](int64_t group, int64_t index, int worker) {
      Expect(group >= 0 && group < groups && index >= 0 && index < tasks, "the task is in range");
      Expect(worker >= 0 && worker < pool->NumThreads(), "the worker is in range");
      Expect(!busy[static_cast<size_t>(worker)].exchange(true), "the worker runs one task at a time");
      scratch[worker] += 1;  // a worker's own memory needs no lock
      runs[static_cast<size_t>(group * tasks + index)] += 1;
      if (seed >> 28 == 0) std::this_thread::yield();
      busy[static_cast<size_t>(worker)].store(false);
    });
    for (int count : runs) Expect(count == 1, "each task runs once");
    int64_t total = 0;
    for (int64_t count : scratch) total += count;
    Expect(total == groups * tasks, "scratch counts add up");
    if (round % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));  // longer than helpers stay
  }
}

// A stream of jobs without gaps must not keep the pool's thread from its other work.
void TestOthersAreServed() {
  Closures closures(1);
  std::atomic<bool> stop{false}, served{false};
  std::thread stream([&] {
    HelperThreads pool(&closures, 2);
    std::atomic<int64_t> work{0};
    while (!stop) pool.Run(1, 8, [&](int64_t, int64_t, int) { work.fetch_add(1); });
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  for (int i = 0; i < 20; ++i) {
    served = false;
    closures.Schedule([&served] { served = true; });
    const auto start = std::chrono::steady_clock::now();
    while (!served && std::chrono::steady_clock::now() - start < std::chrono::seconds(5)) std::this_thread::yield();
    Expect(served, "a closure of somebody else runs while jobs stream");
  }
  stop = true;
  stream.join();
}

int Main() {
  TestOthersAreServed();
  for (int threads : {1, 2, 3, 8}) {
    WorkerThreads pool(threads);
    Drive(&pool, 2000, 1);
  }
  for (int threads : {1, 2, 4}) {
    Closures closures(threads);
    std::vector<std::thread> callers;
    for (unsigned caller = 0; caller < 3; ++caller) {
      callers.emplace_back([&closures, threads, caller] {
        HelperThreads pool(&closures, threads + 1);
        Drive(&pool, 1500, caller);
      });
    }
    for (std::thread& caller : callers) caller.join();
  }
  {
    Closures one(1), other(1);  // two pools at once: a helper serves its own
    std::thread thread([&] {
      HelperThreads pool(&one, 2);
      Drive(&pool, 1500, 5);
    });
    HelperThreads pool(&other, 2);
    Drive(&pool, 1500, 6);
    thread.join();
  }
  std::printf("%s\n", failures == 0 ? "OK" : "FAILED");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tfcompress

int main() { return tfcompress::Main(); }
