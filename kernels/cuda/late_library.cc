#include "kernels/cuda/late_library.h"

#include <dlfcn.h>

#include <utility>

#include "base/error.h"

namespace skippipe::cuda {

LateLibrary::LateLibrary(std::string name) : name_(std::move(name)), handle_(dlopen(name_.c_str(), RTLD_NOW)) {
  if (handle_ == nullptr)
    throw DeviceError(
        "cannot load {}, which this program uses GPUs with ({}): install it from NVIDIA's packages, or "
        "add its folder to LD_LIBRARY_PATH",
        name_, dlerror());
}

void* LateLibrary::find(const char* function) const {
  void* const address = dlsym(handle_, function);
  if (address == nullptr)
    throw DeviceError("{} has no {}: it is older than the one this program was built with; update it", name_, function);
  return address;
}

}  // namespace skippipe::cuda
