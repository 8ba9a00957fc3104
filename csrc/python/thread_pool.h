// A small pool of threads for the NumPy-facing kernels, so that they can be measured and tested without TensorFlow.
#ifndef TFCOMPRESS_PYTHON_THREAD_POOL_H_
#define TFCOMPRESS_PYTHON_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "base/parallel.h"

namespace tfcompress {

// num_threads - 1 threads wait for work; the caller is the last one. They spin briefly before they sleep.
class WorkerThreads final : public ThreadPool {
 public:
  explicit WorkerThreads(int num_threads);
  ~WorkerThreads() override;
  int NumThreads() const override { return static_cast<int>(threads_.size()) + 1; }
  // Called by one thread at a time.
  void Run(int64_t groups, int64_t tasks, TaskRef task) override;

 private:
  void Loop(int worker);
  void Stop();

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  Job::Share job_;  // none: stop. Guarded by mutex_
};

}  // namespace tfcompress

#endif  // TFCOMPRESS_PYTHON_THREAD_POOL_H_
