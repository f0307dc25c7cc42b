// A backend under test, and the memory that its tensors live in.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace skippipe::testing {

using DeviceMemory = std::unique_ptr<std::byte[], std::function<void(std::byte*)>>;

class TestDevice {
 public:
  explicit TestDevice(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  Backend& backend() { return *backend_; }
  DeviceMemory allocate(size_t bytes);
  // Wait for what was queued on the default stream, and copy all of `from`.
  void upload(DeviceMemory& to, const std::vector<std::byte>& from);
  void download(std::vector<std::byte>& to, const DeviceMemory& from);

 private:
  void copy(void* to, const void* from, size_t bytes);

  std::unique_ptr<Backend> backend_;
};

// Of a test backend (tests/test_backend.h). Null where there is none, and `why_none` says why.
std::unique_ptr<TestDevice> make_test_device(const std::string& name, std::string& why_none);

}  // namespace skippipe::testing
