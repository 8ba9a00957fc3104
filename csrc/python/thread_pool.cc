#include "python/thread_pool.h"

namespace tfcompress {
namespace {

constexpr int kSpins = 20000;  // a few tens of microseconds

}  // namespace

WorkerThreads::WorkerThreads(int num_threads) {
  try {
    for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { Loop(i); });
  } catch (...) {  // no more threads are to be had: those that have started must end before their pool does
    Stop();
    throw;
  }
}

WorkerThreads::~WorkerThreads() { Stop(); }

void WorkerThreads::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    job_ = {};
    ++generation_;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerThreads::Run(int64_t groups, int64_t tasks, TaskRef task) {
  Job::Share job(groups, tasks, NumThreads(), task);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    job_ = job;
    ++generation_;
  }
  wake_.notify_all();
  job.Finish([] { std::this_thread::yield(); });
}

void WorkerThreads::Loop(int worker) {
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) {
    }
    Job::Share job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      seen = generation_.load();
      job = job_;
    }
    if (!job) return;
    job.Work(worker);
  }
}

}  // namespace tfcompress
