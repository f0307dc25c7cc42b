// What a build without CUDA answers.
#include "base/error.h"
#include "kernels/cuda_backend.h"

namespace skippipe {
namespace {

constexpr const char* kWhy = "this program was built without CUDA";

}  // namespace

CudaDevices find_cuda_devices() { return {{}, kWhy}; }

std::unique_ptr<Backend> make_cuda_backend(int, AttentionKernels) { throw DeviceError(kWhy); }

}  // namespace skippipe
