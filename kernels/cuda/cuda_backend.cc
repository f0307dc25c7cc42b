#include "kernels/cuda_backend.h"

#include <cuda_runtime_api.h>

#include "base/error.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/gpu_backend.h"
#include "kernels/cuda/targets.h"
#ifdef SKIPPIPE_HAS_CUDNN
#include "kernels/cuda/cudnn_attention.h"
#endif

namespace skippipe {
namespace {

using cuda::DeviceLimits;

CudaDevice describe(int index) {
  cudaDeviceProp properties{};
  SKP_CUDA(cudaGetDeviceProperties(&properties, index));
  const int capability = 10 * properties.major + properties.minor;
  return {index,
          properties.name,
          capability,
          static_cast<int64_t>(properties.totalGlobalMem),
          properties.multiProcessorCount,
          cuda::runs_on(capability),
          cuda::has_hopper_kernels(capability)};
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  SKP_CUDA(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

DeviceLimits limits_of(int device) {
  const int capability =
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device);
  return {.index = device,
          .capability = capability,
          .multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device),
          .shared_bytes_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          .l2_bytes = attribute(cudaDevAttrL2CacheSize, device),
          .hopper = cuda::has_hopper_kernels(capability)};
}

std::unique_ptr<cuda::AttentionLibrary> make_attention(AttentionKernels attention, const DeviceLimits& limits) {
  if (attention != AttentionKernels::kCudnn) return nullptr;
#ifdef SKIPPIPE_HAS_CUDNN
  return cuda::make_cudnn_attention(limits);
#else
  throw DeviceError("device {}: attention by cuDNN was asked for, but this program was built without cuDNN",
                    limits.index);
#endif
}

// Why there is nothing to list.
std::string why_none(cudaError_t code) {
  (void)cudaGetLastError();
  if (code == cudaErrorInsufficientDriver) return cuda::driver_problem();
  return cudaGetErrorString(code);
}

}  // namespace

CudaDevices find_cuda_devices() {
  CudaDevices found{.list = {}, .why_none = {}, .built_for = cuda::built_targets()};
  int count = 0;
  if (const cudaError_t code = cudaGetDeviceCount(&count); code != cudaSuccess) {
    found.why_none = why_none(code);
    return found;
  }
  try {
    for (int index = 0; index < count; ++index) found.list.push_back(describe(index));
  } catch (const DeviceError& error) {
    found.list.clear();
    found.why_none = error.what();
  }
  return found;
}

std::unique_ptr<Backend> make_cuda_backend(int device, AttentionKernels attention) {
  auto runtime = cuda::make_device_runtime(device);
  cuda::require_image();
  DeviceLimits limits = limits_of(device);
  if (attention == AttentionKernels::kPortable) limits.hopper = false;
  return cuda::make_gpu_backend(limits, std::move(runtime), cuda::make_cublaslt_products(limits),
                                make_attention(attention, limits));
}

}  // namespace skippipe
