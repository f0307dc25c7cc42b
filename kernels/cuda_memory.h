// Memory of the thread's current CUDA device, by plain allocation. All throw DeviceError, except cuda_free.
#pragma once

#include <cstdint>

namespace skippipe {

// At least aligned to 256 bytes.
void* cuda_allocate(int64_t bytes);
void cuda_free(void* memory) noexcept;
// Wait for everything that was queued on the device, then copy from or to the host.
void cuda_upload(void* to, const void* from, int64_t bytes);
void cuda_download(void* to, const void* from, int64_t bytes);
// Between places on the device, queued on the stream.
void cuda_copy(void* to, const void* from, int64_t bytes, void* stream);
// Waits for everything that was queued, and throws what went wrong in it.
void cuda_synchronize();

}  // namespace skippipe
