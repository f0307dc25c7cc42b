#include "tests/kernels/test_device.h"

#include "base/error.h"
#include "kernels/cpu_backend.h"
#include "kernels/cuda_backend.h"
#include "tests/simt/simt_backend.h"

namespace skippipe::testing {
DeviceMemory TestDevice::allocate(size_t size) {
  const auto bytes = static_cast<int64_t>(size);
  Runtime* const runtime = &backend_->runtime();
  return {static_cast<std::byte*>(runtime->allocate(Place::kDevice, bytes)),
          [runtime, bytes](std::byte* memory) { runtime->release(Place::kDevice, memory, bytes); }};
}

void TestDevice::upload(DeviceMemory& to, const std::vector<std::byte>& from) {
  copy(to.get(), from.data(), from.size());
}

void TestDevice::download(std::vector<std::byte>& to, const DeviceMemory& from) {
  copy(to.data(), from.get(), to.size());
}

void TestDevice::copy(void* to, const void* from, size_t bytes) {
  Runtime& runtime = backend_->runtime();
  runtime.copy(nullptr, to, from, static_cast<int64_t>(bytes));
  runtime.finish(nullptr);
}

std::unique_ptr<TestDevice> make_test_device(const std::string& name, std::string& why_none) {
#ifdef SKIPPIPE_HAS_CPU_BACKEND
  if (name == "cpu") return std::make_unique<TestDevice>(make_cpu_backend());
#else
  if (name == "cpu") {
    why_none = "this program was built without oneDNN";
    return nullptr;
  }
#endif
#ifdef SKIPPIPE_HAS_SIMT
  if (name == "simt") return std::make_unique<TestDevice>(simt::make_simt_backend());
  if (name == "simt_small") return std::make_unique<TestDevice>(simt::make_small_simt_backend());
#endif
  if (name == "cuda") {
    why_none = find_cuda_devices().why_none;
    return why_none.empty() ? std::make_unique<TestDevice>(make_cuda_backend(0)) : nullptr;
  }
  throw InternalError("no backend {}", name);
}

}  // namespace skippipe::testing
