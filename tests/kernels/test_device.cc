#include "tests/kernels/test_device.h"

#include <utility>

#include "tests/test_backend.h"

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
  auto backend = make_test_backend(name, why_none);
  return backend == nullptr ? nullptr : std::make_unique<TestDevice>(std::move(backend));
}

}  // namespace skippipe::testing
