#include "base/team.h"

#include <sched.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <utility>

namespace tfcompress {
namespace {

using Clock = std::chrono::steady_clock;

// How long a helper stays after its last task. Long against the gap between two layers of a graph, short against what other
// users of the pool would notice.
constexpr std::chrono::microseconds kStay(50);

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

struct Assignment {
  std::shared_ptr<Job> job;
  int worker;
};

// Where one helper waits. Its states: free -> (a helper arrives) -> waiting -> (an op posts) -> posted -> (the helper takes the job) ->
// waiting, or waiting -> (the helper leaves) -> free. `pool` and `assignment` belong to whoever is about to make the next transition.
class Mailbox {
 public:
  bool Arrive(const void* pool) {
    State expected = kFree;
    if (!state_.compare_exchange_strong(expected, kClaimed, std::memory_order_acquire)) return false;
    pool_.store(pool, std::memory_order_relaxed);
    state_.store(kWaiting, std::memory_order_release);
    return true;
  }

  // By who has a job. False if no helper of that pool waits here.
  bool Post(const void* pool, const std::shared_ptr<Job>& job, int worker) {
    if (state_.load(std::memory_order_relaxed) != kWaiting || pool_.load(std::memory_order_relaxed) != pool) return false;
    State expected = kWaiting;
    if (!state_.compare_exchange_strong(expected, kClaimed, std::memory_order_acquire)) return false;
    if (pool_.load(std::memory_order_relaxed) != pool) {  // another helper has come meanwhile
      state_.store(kWaiting, std::memory_order_release);
      return false;
    }
    assignment_ = {job, worker};
    state_.store(kPosted, std::memory_order_release);
    return true;
  }

  // By the helper: the next job, or none after kStay; the mailbox is free then.
  Assignment Wait() {
    const Clock::time_point end = Clock::now() + kStay;
    for (;;) {
      for (int i = 0; i < 64; ++i) {
        if (state_.load(std::memory_order_acquire) == kPosted) {
          Assignment assignment = std::move(assignment_);
          assignment_.job = nullptr;
          state_.store(kWaiting, std::memory_order_release);
          return assignment;
        }
        Pause();
      }
      if (Clock::now() > end) {
        State expected = kWaiting;
        if (state_.compare_exchange_strong(expected, kFree, std::memory_order_release)) return {nullptr, 0};
      } else {
        sched_yield();
      }
    }
  }

 private:
  enum State : int { kFree, kClaimed, kWaiting, kPosted };
  std::atomic<State> state_{kFree};
  std::atomic<const void*> pool_{nullptr};
  Assignment assignment_{nullptr, 0};
};

struct alignas(64) PaddedMailbox : Mailbox {};

constexpr int kMailboxes = 64;
PaddedMailbox mailboxes[kMailboxes];

void Help(const void* pool, Assignment assignment) {
  assignment.job->Work(assignment.worker);
  assignment.job = nullptr;
  for (PaddedMailbox& mailbox : mailboxes) {
    if (!mailbox.Arrive(pool)) continue;
    for (;;) {
      const Assignment next = mailbox.Wait();
      if (next.job == nullptr) return;
      next.job->Work(next.worker);
    }
  }
}

}  // namespace

void RunWithHelpers(const void* pool, const std::function<void(std::function<void()>)>& schedule, int num_threads, int64_t groups,
                    int64_t tasks, TaskRef task) {
  const auto job = std::make_shared<Job>(groups, tasks, num_threads, task);
  const int workers = job->workers();
  int worker = 1;
  for (int i = 0; i < kMailboxes && worker < workers; ++i) {
    if (mailboxes[i].Post(pool, job, worker)) ++worker;
  }
  for (; worker < workers; ++worker) {
    schedule([pool, job, worker] { Help(pool, {job, worker}); });
  }
  job->Work(0);
  // What is left runs on a helper right now.
  for (int spin = 0; !job->Finished(); ++spin) {
    if (spin < 4096) {
      Pause();
    } else {
      sched_yield();  // the helper may have lost its processor
    }
  }
}

}  // namespace tfcompress
