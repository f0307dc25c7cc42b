// Not one of the operations, which tests also compile for the CPU: this asks the CUDA runtime about a kernel.
#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/gpu_backend.h"

namespace skippipe::cuda {
namespace {

__global__ void compiled_as_all_others() {}

}  // namespace

void require_image() {
  cudaFuncAttributes attributes;
  SKP_CUDA(cudaFuncGetAttributes(&attributes, compiled_as_all_others));
}

std::unique_ptr<Backend> make_gpu_backend(const DeviceLimits& limits, std::unique_ptr<Runtime> runtime,
                                          std::unique_ptr<MatrixProducts> products,
                                          std::unique_ptr<AttentionLibrary> attention) {
  return std::make_unique<GpuBackend>(limits, std::move(runtime), std::move(products), std::move(attention));
}

}  // namespace skippipe::cuda
