// Lends the threads of somebody's pool to consecutive small jobs with little delay.
//
// A small layer takes 5 to 20 us, and waking a sleeping thread takes longer than that (20 to 50 us on a virtual machine), so with
// an ordinary parallel-for a second core is of no use to a chain of small layers: 1024 x 1024 at batch 1 takes 23 us with TensorFlow's own,
// 18 us this way, two threads on Zen 3. Here a pool thread that has helped stays for a moment and takes the next job from a
// mailbox, which costs a cache miss. Nobody waits for a helper that comes late: tasks are claimed one by one, by the caller too.
//
// No thread is started, and no state grows. A waiting helper yields its processor, and goes back to the pool after 200 us in all, so that the
// pool's other work is not kept waiting.
#ifndef TFCOMPRESS_BASE_TEAM_H_
#define TFCOMPRESS_BASE_TEAM_H_

#include <cstdint>
#include <functional>

#include "base/parallel.h"

namespace tfcompress {

// Runs the tasks on the calling thread and up to num_threads - 1 helpers. `schedule` runs a closure on a thread of the pool, some time;
// `pool` tells pools apart: a helper serves only the pool that its thread belongs to.
void RunWithHelpers(const void* pool, const std::function<void(std::function<void()>)>& schedule, int num_threads, int64_t groups,
                    int64_t tasks, TaskRef task);

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_TEAM_H_
