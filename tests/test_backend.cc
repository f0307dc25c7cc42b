#include "tests/test_backend.h"

#include "base/error.h"
#include "kernels/cpu_backend.h"
#include "kernels/cuda_backend.h"
#include "tests/simt/simt_backend.h"

namespace skippipe::testing {

std::unique_ptr<Backend> make_test_backend(const std::string& name, std::string& why_none) {
#ifdef SKIPPIPE_HAS_CPU_BACKEND
  if (name == "cpu") return make_cpu_backend();
#else
  if (name == "cpu") {
    why_none = "this program was built without oneDNN";
    return nullptr;
  }
#endif
#ifdef SKIPPIPE_HAS_SIMT
  if (name == "simt") return simt::make_simt_backend();
  if (name == "simt_small") return simt::make_small_simt_backend();
  if (name == "simt_hopper") return simt::make_hopper_simt_backend();
#endif
  if (name == "cuda") {
    why_none = find_cuda_devices().why_none;
    return why_none.empty() ? make_cuda_backend(0) : nullptr;
  }
  throw InternalError("this program was built without the test backend {}", name);
}

}  // namespace skippipe::testing
