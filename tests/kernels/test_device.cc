#include "tests/kernels/test_device.h"

#include <cstring>
#include <new>

#include "base/error.h"
#include "kernels/cpu_backend.h"
#include "kernels/cuda_backend.h"
#include "kernels/cuda_memory.h"
#include "tests/simt/simt_backend.h"

namespace skippipe::testing {
namespace {

class HostDevice : public TestDevice {
 public:
  using TestDevice::TestDevice;

  DeviceMemory allocate(size_t bytes) override {
    constexpr std::align_val_t kAlignment{64};
    return {static_cast<std::byte*>(::operator new(bytes, kAlignment)),
            [](std::byte* memory) { ::operator delete(memory, kAlignment); }};
  }
  void upload(DeviceMemory& to, const std::vector<std::byte>& from) override {
    std::memcpy(to.get(), from.data(), from.size());
  }
  void download(std::vector<std::byte>& to, const DeviceMemory& from) override {
    std::memcpy(to.data(), from.get(), to.size());
  }
};

class GpuDevice : public TestDevice {
 public:
  using TestDevice::TestDevice;

  DeviceMemory allocate(size_t bytes) override {
    return {static_cast<std::byte*>(cuda_allocate(static_cast<int64_t>(bytes))),
            [](std::byte* memory) { cuda_free(memory); }};
  }
  void upload(DeviceMemory& to, const std::vector<std::byte>& from) override {
    cuda_upload(to.get(), from.data(), static_cast<int64_t>(from.size()));
  }
  void download(std::vector<std::byte>& to, const DeviceMemory& from) override {
    cuda_download(to.data(), from.get(), static_cast<int64_t>(to.size()));
  }
};

}  // namespace

std::unique_ptr<TestDevice> make_test_device(const std::string& name, std::string& why_none) {
#ifdef SKIPPIPE_HAS_CPU_BACKEND
  if (name == "cpu") return std::make_unique<HostDevice>(make_cpu_backend());
#else
  if (name == "cpu") {
    why_none = "this program was built without oneDNN";
    return nullptr;
  }
#endif
#ifdef SKIPPIPE_HAS_SIMT
  if (name == "simt") return std::make_unique<HostDevice>(simt::make_simt_backend());
  if (name == "simt_small") return std::make_unique<HostDevice>(simt::make_small_simt_backend());
  if (name == "simt_hopper") return std::make_unique<HostDevice>(simt::make_hopper_simt_backend());
#endif
  if (name == "cuda") {
    why_none = find_cuda_devices().why_none;
    return why_none.empty() ? std::make_unique<GpuDevice>(make_cuda_backend(0)) : nullptr;
  }
  throw InternalError("no backend {}", name);
}

}  // namespace skippipe::testing
