#include "kernels/cuda_memory.h"

#include <cuda_runtime_api.h>

#include "kernels/cuda/errors.h"

namespace skippipe {

void* cuda_allocate(int64_t bytes) {
  void* memory = nullptr;
  SKP_CUDA(cudaMalloc(&memory, static_cast<size_t>(bytes)));
  return memory;
}

// An error here is one of an earlier call, which another call will report.
void cuda_free(void* memory) noexcept { (void)cudaFree(memory); }

void cuda_upload(void* to, const void* from, int64_t bytes) {
  cuda_synchronize();
  SKP_CUDA(cudaMemcpy(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice));
}

void cuda_download(void* to, const void* from, int64_t bytes) {
  cuda_synchronize();
  SKP_CUDA(cudaMemcpy(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost));
}

void cuda_copy(void* to, const void* from, int64_t bytes, void* stream) {
  SKP_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                           static_cast<cudaStream_t>(stream)));
}

void cuda_synchronize() { SKP_CUDA(cudaDeviceSynchronize()); }

}  // namespace skippipe
