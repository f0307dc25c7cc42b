// What a build without CUDA answers.
#include "base/error.h"
#include "kernels/cuda_backend.h"
#include "kernels/cuda_memory.h"
#include "kernels/cuda_timer.h"

namespace skippipe {
namespace {

constexpr const char* kWhy = "this program was built without CUDA";

}  // namespace

CudaDevices find_cuda_devices() { return {{}, kWhy}; }

std::unique_ptr<Backend> make_cuda_backend(int, AttentionKernels) { throw DeviceError(kWhy); }

void* cuda_allocate(int64_t) { throw DeviceError(kWhy); }
void cuda_free(void*) noexcept {}
void cuda_upload(void*, const void*, int64_t) { throw DeviceError(kWhy); }
void cuda_download(void*, const void*, int64_t) { throw DeviceError(kWhy); }
void cuda_copy(void*, const void*, int64_t, void*) { throw DeviceError(kWhy); }
void cuda_synchronize() { throw DeviceError(kWhy); }

double cuda_seconds(void*, const std::function<void()>&) { throw DeviceError(kWhy); }

}  // namespace skippipe
