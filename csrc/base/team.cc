#include "base/team.h"

#include <sched.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

namespace tfcompress {
namespace {

using Clock = std::chrono::steady_clock;

// How long a helper waits for another job: long against the gap between two layers of a graph.
constexpr std::chrono::microseconds kWait(50);
// How long it stays in all, jobs or not: then its thread goes back to the pool, whose other work would starve otherwise. A closure of
// TensorFlow's own ops holds a thread as long. At a tenth of it, 128 x 1024 x 1024 in a graph takes 225 us, not 165: a job outlasts the
// tenure, and the next one waits for a thread to wake.
constexpr std::chrono::microseconds kTenure(2000);

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");  // "yield" does nothing on most cores
#endif
}

struct Assignment {
  Job::Share job;
  int worker = 0;
};

// Where one helper waits. Its states: free -> (a helper arrives) -> waiting -> (a job is posted) -> posted -> (the helper takes it) -> busy ->
// waiting, or waiting -> (the helper leaves) -> free. `pool` and `assignment` belong to whoever makes the next transition.
class alignas(64) Mailbox {
 public:
  bool Arrive(const void* pool) {
    State expected = kFree;
    if (!state_.compare_exchange_strong(expected, kClaimed, std::memory_order_acquire)) return false;
    pool_.store(pool, std::memory_order_relaxed);
    state_.store(kBusy, std::memory_order_release);
    return true;
  }

  // By who has a job. False if no helper of that pool waits here.
  bool Post(const void* pool, const Job::Share& job, int worker) {
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

  // By the helper: the next job, or none by `end`; the mailbox is free then.
  Assignment Wait(Clock::time_point end) {
    state_.store(kWaiting, std::memory_order_release);
    for (;;) {
      for (int i = 0; i < 64; ++i) {
        if (state_.load(std::memory_order_acquire) == kPosted) {
          state_.store(kBusy, std::memory_order_relaxed);
          return std::exchange(assignment_, {});
        }
        Pause();
      }
      if (Clock::now() > end) {
        State expected = kWaiting;
        if (state_.compare_exchange_strong(expected, kFree, std::memory_order_release)) return {};
      } else {
        sched_yield();
      }
    }
  }

 private:
  enum State : int { kFree, kClaimed, kWaiting, kPosted, kBusy };
  std::atomic<State> state_{kFree};
  std::atomic<const void*> pool_{nullptr};
  Assignment assignment_;
};

constexpr int kMailboxes = 64;

// Never destroyed: pool threads may still be here while the process goes down.
Mailbox* Mailboxes() {
  static Mailbox* const mailboxes = new Mailbox[kMailboxes];
  return mailboxes;
}

// How many closures a pool was given that have not begun. Without a bound a stream of jobs that are shorter than a wake-up would queue
// helpers faster than they come, in front of everybody else's work.
std::atomic<int>* PendingOf(const void* pool) {
  struct Entry {
    std::atomic<const void*> pool{nullptr};
    std::atomic<int> pending{0};
  };
  constexpr int kEntries = 64;  // pools that a process ever has; beyond them, their jobs run on their callers alone
  static Entry* const entries = new Entry[kEntries];
  for (int i = 0; i < kEntries; ++i) {
    const void* owner = entries[i].pool.load(std::memory_order_acquire);
    if (owner == nullptr && entries[i].pool.compare_exchange_strong(owner, pool)) owner = pool;
    if (owner == pool) return &entries[i].pending;
  }
  return nullptr;
}

void Help(const void* pool, Assignment assignment) {
  const Clock::time_point arrival = Clock::now();
  assignment.job.Work(assignment.worker);
  if (Clock::now() - arrival > kTenure) return;  // after a job of that length a wake-up does not matter
  for (int i = 0; i < kMailboxes; ++i) {
    Mailbox& mailbox = Mailboxes()[i];
    if (!mailbox.Arrive(pool)) continue;
    for (;;) {
      // Past the tenure, one more look: who posted just now must be served.
      const Clock::time_point now = Clock::now(), leave = arrival + kTenure;
      Assignment next = mailbox.Wait(now + kWait < leave ? now + kWait : leave);
      if (!next.job) return;
      next.job.Work(next.worker);
    }
  }
}

}  // namespace

void RunWithHelpers(const void* pool, const std::function<void(std::function<void()>)>& schedule, int num_threads, int64_t groups,
                    int64_t tasks, TaskRef task) {
  Job::Share job(groups, tasks, num_threads, task);
  const int workers = job.workers();
  int worker = 1;
  for (int i = 0; i < kMailboxes && worker < workers; ++i) {
    if (Mailboxes()[i].Post(pool, job, worker)) ++worker;
  }
  std::atomic<int>* const pending = PendingOf(pool);
  for (const std::thread::id caller = std::this_thread::get_id(); pending != nullptr && worker < workers; ++worker) {
    if (pending->fetch_add(1) >= num_threads) {
      pending->fetch_sub(1);
      break;
    }
    schedule([pool, assignment = Assignment{job, worker}, caller, pending]() mutable {
      pending->fetch_sub(1);
      if (std::this_thread::get_id() == caller) return;  // run in place, as pools do whose queue is full: the caller works anyway
      Help(pool, std::exchange(assignment, {}));
    });
  }
  int spins = 0;
  job.Finish([&spins] {  // what is left runs on a helper right now
    if (++spins < 4096) {
      Pause();
    } else {
      sched_yield();  // the helper may have lost its processor
    }
  });
}

}  // namespace tfcompress
