// Lends the threads of TensorFlow's intra-op pool to consecutive ops with little delay.
//
// A small layer takes 5 to 20 us, and waking a sleeping pool thread takes longer than that (20 to 50 us on a virtual machine), so
// with the pool's own ParallelFor a second core is of no use to a chain of small layers. Here a pool thread that has helped an op stays
// for a moment and takes the next op's job from a mailbox, which costs a cache miss. Nobody waits for a helper that comes late:
// tasks are claimed one by one, and the caller claims them too.
//
// No thread is started, memory is static, and a waiting helper yields its processor to whoever else wants to run.
#ifndef TFCOMPRESS_OPS_TEAM_H_
#define TFCOMPRESS_OPS_TEAM_H_

#include <cstdint>

#include "base/parallel.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace tfcompress {

// Runs the tasks on the calling thread and up to num_workers - 1 threads of `pool`.
void RunOnPool(tensorflow::thread::ThreadPool* pool, int num_workers, int64_t groups, int64_t tasks, TaskRef task);

}  // namespace tfcompress

#endif  // TFCOMPRESS_OPS_TEAM_H_
