#include "python/thread_pool.h"

namespace tfcompress {
namespace {

constexpr int kSpins = 20000;  // a few tens of microseconds

}  // namespace

WorkerThreads::WorkerThreads(int num_threads) {
  for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this] { Loop(); });
}

WorkerThreads::~WorkerThreads() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    ++generation_;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerThreads::Run(int64_t num_tasks, TaskRef task) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    task_ = &task;
    num_tasks_ = num_tasks;
    next_ = 0;
    busy_ = static_cast<int>(threads_.size());
    ++generation_;
  }
  wake_.notify_all();
  Work();
  while (busy_.load(std::memory_order_acquire) != 0) std::this_thread::yield();  // every thread has let go of `task`
}

void WorkerThreads::Work() {
  for (;;) {
    const int64_t i = next_.fetch_add(1);
    if (i >= num_tasks_) return;
    (*task_)(i);
  }
}

void WorkerThreads::Loop() {
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) {
    }
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);  // pairs with the writes in Run
      seen = generation_.load();
    }
    if (stop_) return;
    Work();
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace tfcompress
