// The CPU's runtime: memory of the host; what is queued is done before the call returns.
#pragma once

#include "kernels/runtime.h"

namespace skippipe {

class HostRuntime final : public Runtime {
 public:
  void release(Place place, void* memory, int64_t bytes) noexcept override;
  AvailableMemory available(Place) override { return read_host_memory().tightest(); }
  AvailableMemory available_to_all(Place) override { return read_host_memory().shared; }
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
