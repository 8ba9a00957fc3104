// What launchers know of a GPU, and what stands between this build and it. No CUDA header: TensorFlow's side includes this.
#ifndef TFCOMPRESS_BASE_CUDA_DEVICE_H_
#define TFCOMPRESS_BASE_CUDA_DEVICE_H_

#include <cstdint>
#include <string>

namespace tfcompress {

struct CudaDevice {
  int compute_capability = 0;            // 80 for 8.0
  int multiprocessors = 0;
  int64_t shared_bytes_per_block = 0;    // the most that a kernel can ask for
};

// The device that the calling thread's CUDA context belongs to. Looked up once a device. Null, and *error says in one sentence what is
// missing (a driver, a newer driver, machine code for this device) and what to install, where kernels of this build cannot run.
const CudaDevice* CurrentCudaDevice(std::string* error);

// For people: "CUDA 13.0, machine code for 7.5, 8.0, PTX of 8.0", as this library was built.
std::string CudaBuildDescription();

}  // namespace tfcompress

#endif  // TFCOMPRESS_BASE_CUDA_DEVICE_H_
