// What the CUDA runtime says of the current device, and in one sentence what is wrong where kernels cannot run on it.
#include <mutex>
#include <vector>

#include "base/cuda_device.h"
#include "base/cuda_intrinsics.cuh"

namespace tfcompress {
namespace {

// Present in this library's image for a device exactly where the kernels are.
TFCOMPRESS_GLOBAL(32, 1) ProbeKernel() {}

std::string Version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }
// The oldest driver branches that run programs of a CUDA major version (NVIDIA, "CUDA Compatibility").
const char* OldestDriver() { return CUDART_VERSION >= 13000 ? "580" : "525"; }

std::string BuiltWith() { return "this copy of tfcompress_ops is built with " + CudaBuildDescription(); }

std::string NeedsDriver(const std::string& found) {
  return found + "; " + BuiltWith() + ", which needs NVIDIA driver " + OldestDriver() + " or later. Install it (nvidia-smi shows the one in use), or place " +
         "the layer on the CPU with tf.device('CPU:0')";
}

// Fills *device, or says what is wrong.
std::string Describe(int index, CudaDevice* device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) return std::string("CUDA device ") + std::to_string(index) + ": " + cudaGetErrorString(error);
  cudaFuncAttributes attributes;
  const cudaError_t image = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(ProbeKernel));
  if (image != cudaSuccess) {
    cudaGetLastError();
    return std::string(properties.name) + " has compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) + " (" +
           cudaGetErrorString(image) + "); " + BuiltWith() + ". Build it for this device with -C cmake.define.TFCOMPRESS_CUDA_ARCHS=" +
           std::to_string(properties.major * 10 + properties.minor) + ", or place the layer on the CPU with tf.device('CPU:0')";
  }
  device->compute_capability = properties.major * 10 + properties.minor;
  device->multiprocessors = properties.multiProcessorCount;
  device->shared_bytes_per_block = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  return "";
}

}  // namespace

std::string CudaBuildDescription() { return "CUDA " + Version(CUDART_VERSION) + " for compute capabilities " TFCOMPRESS_CUDA_ARCHS " and later"; }

const CudaDevice* CurrentCudaDevice(std::string* error) {
  int driver = 0;
  int index = 0;
  const cudaError_t found = cudaGetDevice(&index);
  if (found == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    *error = NeedsDriver(driver == 0 ? "there is no NVIDIA driver" : "the NVIDIA driver runs CUDA up to " + Version(driver) + " only");
    return nullptr;
  }
  if (found != cudaSuccess) {
    cudaGetLastError();
    *error = NeedsDriver(std::string("there is no CUDA device (") + cudaGetErrorString(found) + ")");
    return nullptr;
  }
  struct Known {
    bool known = false;
    CudaDevice device;
    std::string error;
  };
  static std::mutex mutex;
  static auto* devices = new std::vector<Known*>;  // never destroyed: an op may run while the process ends
  const std::lock_guard<std::mutex> lock(mutex);
  while (devices->size() <= static_cast<size_t>(index)) devices->push_back(new Known);
  Known& known = *(*devices)[static_cast<size_t>(index)];
  if (!known.known) {
    known.error = Describe(index, &known.device);
    known.known = true;
  }
  *error = known.error;
  return known.error.empty() ? &known.device : nullptr;
}

}  // namespace tfcompress
