// The CPU's runtime: memory of the host; what is queued is done before the call returns.
#pragma once

#include "kernels/runtime.h"

namespace skippipe {

// The memory that this machine could still give to a process now, in bytes (Linux: MemAvailable, and the control
// group's limit where there is one).
int64_t available_host_bytes();

class HostRuntime final : public Runtime {
 public:
  void release(Place place, void* memory, int64_t bytes) noexcept override;
  int64_t available_bytes(Place) override { return available_host_bytes(); }
  Stream make_stream() override { return nullptr; }
  void destroy_stream(Stream) noexcept override {}
  void copy(Stream stream, void* to, const void* from, int64_t bytes) override;
  void wait_for(Stream, Stream) override {}
  void call(Stream, std::function<void()> notify) override { notify(); }
  void finish(Stream) override {}
  bool finished(Stream) override { return true; }
  double seconds(Stream stream, const std::function<void()>& queue_work) override;
  std::unique_ptr<Graph> capture(Stream, const std::function<void()>&) override { return nullptr; }

 private:
  void* do_allocate(Place place, int64_t bytes) override;
};

}  // namespace skippipe
