// Checks of what CUDA and its libraries answer. For sources that know no formatting library, as .cu files.
#pragma once

namespace skippipe::cuda {

struct CallSite {
  const char* call;
  const char* file;
  int line;
};

// Throws DeviceError unless `code` (a cudaError_t) is success: call, file, line, device, and what to do about it.
void check_cuda(int code, const CallSite& site);
#define SKP_CUDA(call) ::skippipe::cuda::check_cuda((call), {#call, __FILE__, __LINE__})

}  // namespace skippipe::cuda
