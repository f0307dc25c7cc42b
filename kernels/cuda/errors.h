// Checks of what CUDA and its libraries answer. For sources that know no formatting library, as .cu files.
#pragma once

#include <string>

namespace skippipe::cuda {

struct CallSite {
  const char* call;
  const char* file;
  int line;
};

// Throws DeviceError: call, file, line, the thread's current device, what went wrong, and what to do about it where
// that is known.
[[noreturn]] void throw_device_error(const CallSite& site, const std::string& problem, const std::string& advice = {});

// Does so unless `code` (a cudaError_t) is success. The runtime forgets the error, if it can: later calls are not
// blamed.
void check_cuda(int code, const CallSite& site);
#define SKP_CUDA(call) ::skippipe::cuda::check_cuda((call), {#call, __FILE__, __LINE__})

}  // namespace skippipe::cuda
