// What the emulated GPU tests share: device memory and devices.
#ifndef TFCOMPRESS_TESTS_CUDA_CUDA_TESTING_H_
#define TFCOMPRESS_TESTS_CUDA_CUDA_TESTING_H_

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/cuda_device.h"
#include "base/cuda_intrinsics.cuh"
#include "../csrc/testing.h"

namespace tfcompress::testing {

// "Device" memory: a heap block of exactly its size, aligned as cudaMalloc aligns (or `offset` bytes off), full of NaNs before it is written.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size, size_t offset = 0) : size_(size) {
    if (posix_memalign(&block_, 256, std::max<size_t>(size * sizeof(T) + offset, 1)) != 0) std::abort();
    data_ = reinterpret_cast<T*>(static_cast<char*>(block_) + offset);
    std::memset(static_cast<void*>(data_), 0xff, size * sizeof(T));
  }
  explicit DeviceArray(const std::vector<T>& from, size_t offset = 0) : DeviceArray(from.size(), offset) {
    if (!from.empty()) std::memcpy(data_, from.data(), from.size() * sizeof(T));
  }
  ~DeviceArray() { std::free(block_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() { return data_; }
  size_t size() const { return size_; }
  std::vector<T> ToHost() const { return std::vector<T>(data_, data_ + size_); }

 private:
  size_t size_;
  void* block_ = nullptr;
  T* data_ = nullptr;
};

// A stream that nobody looks into; the default stream is refused.
inline void* const kStream = reinterpret_cast<void*>(0x1000);

// Devices of the emulated architecture, small ones so that plans for few and for many multiprocessors occur.
inline CudaDevice DeviceWith(int multiprocessors) {
  return {kCudaArch, multiprocessors, kCudaArch == 75 ? 64 << 10 : kCudaArch == 80 ? 163 << 10 : kCudaArch == 90 ? 227 << 10 : 99 << 10};
}

// Leaves out, one at a time, every barrier and every wait of the files under `folder` that `run` passes, and expects wrong results or a report with one of a few seeds.
// Each run is a process of its own, since sanitizers end it.
inline void TestFaults(const char* folder, bool (*run)(uint64_t seed)) {
  EXPECT(run(1), "the kernels fail without a fault");
  std::vector<emulation::Site> sites(emulation::runtime.barriers.begin(), emulation::runtime.barriers.end());
  sites.insert(sites.end(), emulation::runtime.waits.begin(), emulation::runtime.waits.end());
  EXPECT(sites.size() > 1, "%zu barriers and waits were passed", sites.size());
  for (const emulation::Site& site : sites) {
    if (std::strstr(site.file, folder) == nullptr) continue;
    bool caught = false;
    for (uint64_t seed = 1; seed <= 6 && !caught; ++seed) {
      std::fflush(stdout);
      const pid_t child = fork();
      if (child == 0) {
        if (std::freopen("/dev/null", "w", stdout) == nullptr || std::freopen("/dev/null", "w", stderr) == nullptr) _exit(0);
        emulation::runtime.skipped = &site;
        _exit(run(seed) ? 0 : 1);
      }
      int status = 0;
      if (child < 0 || waitpid(child, &status, 0) != child) std::abort();
      caught = status != 0;
    }
    std::printf("without %s: %s\n", site.ToString().c_str(), caught ? "caught" : "missed");
    failures += !caught;
  }
}

// What every program does: `faults` tests the faults under `folder`, otherwise the arguments are a number of cases and a seed.
inline int RunProgram(int argc, char** argv, const char* folder, bool (*run_all_barriers)(uint64_t seed), void (*test)(Random&, int64_t cases)) {
  if (argc > 1 && std::strcmp(argv[1], "faults") == 0) {
    TestFaults(folder, run_all_barriers);
    return Finish();
  }
  const int64_t cases = argc > 1 ? std::atoll(argv[1]) : 40;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  std::printf("seed %llu, architecture %d\n", static_cast<unsigned long long>(seed), kCudaArch);
  Random random(seed);
  emulation::runtime.random.seed(seed);
  test(random, cases);
  return Finish();
}

}  // namespace tfcompress::testing

#endif  // TFCOMPRESS_TESTS_CUDA_CUDA_TESTING_H_
