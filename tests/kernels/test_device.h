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
  virtual ~TestDevice() = default;

  Backend& backend() { return *backend_; }
  // Aligned to 64 bytes.
  virtual DeviceMemory allocate(size_t bytes) = 0;
  // Wait for what was queued, and copy all of `from`.
  virtual void upload(DeviceMemory& to, const std::vector<std::byte>& from) = 0;
  virtual void download(std::vector<std::byte>& to, const DeviceMemory& from) = 0;

 private:
  std::unique_ptr<Backend> backend_;
};

// "cpu", "simt", "simt_small", "simt_hopper" or "cuda". Null where this machine or this build has none, and `why_none` says why.
std::unique_ptr<TestDevice> make_test_device(const std::string& name, std::string& why_none);

}  // namespace skippipe::testing
