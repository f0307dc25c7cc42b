// A device to be timed: a backend, its memory, its clock and its caches.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/random.h"
#include "tests/kernels/test_device.h"

namespace skippipe::bench {

class BenchDevice {
 public:
  virtual ~BenchDevice() = default;

  const std::string& description() const { return description_; }
  Backend& backend() const { return memory_->backend(); }
  // Memory of this device, and copies from and to the host.
  testing::TestDevice& memory() { return *memory_; }
  // Without scratch memory.
  Context context() const { return {&backend(), threads_, {}, nullptr}; }
  // The backend with a library's attention in place of ours, and that library's name; null: there is none.
  Backend* attention_library() const { return attention_library_.get(); }
  // The backend with our attention kernels for all devices, where there are others for this one; else null.
  Backend* portable_attention() const { return portable_attention_.get(); }

  // Queued, as operations are.
  virtual void copy(void* to, const void* from, int64_t bytes) = 0;
  // What the device spends on the work that the function queues; waits for its end.
  double seconds(const std::function<void()>& queue_work);

  // Uniform in [-1, 1). x is contiguous, f32 or bf16.
  void fill_random(const Tensor& x);
  void fill_nan(const Tensor& x);
  // Writes more than the device's caches hold.
  void flush_caches();

  // How often an operation runs within one repetition.
  virtual int runs_per_repetition() const = 0;

 protected:
  BenchDevice(std::unique_ptr<testing::TestDevice> memory, std::unique_ptr<Backend> attention_library,
              std::unique_ptr<Backend> portable_attention, std::string description, int threads);

 private:
  // Bytes that stand on the device, to fill tensors with.
  struct Pattern {
    testing::DeviceMemory memory;
    int64_t bytes;
  };
  Pattern upload(const std::vector<std::byte>& bytes);
  // The pattern over and over, from its byte `offset` on.
  void tile(const Tensor& x, const Pattern& pattern, int64_t offset);

  std::unique_ptr<testing::TestDevice> memory_;
  std::unique_ptr<Backend> attention_library_, portable_attention_;
  std::string description_;
  int threads_;
  Random random_{1};
  Pattern random_f32_, random_bf16_, nan_;
  testing::DeviceMemory flushed_;
};

// "cpu" (with so many threads) or "cuda". Null where this machine or this build has none, and `why_none` says why.
std::unique_ptr<BenchDevice> make_bench_device(const std::string& backend, int threads, std::string& why_none);

}  // namespace skippipe::bench
