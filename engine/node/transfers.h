// Copies between a GPU and pinned memory of the host, on streams of their own beside that of the tasks.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>

#include "kernels/runtime.h"
#include "kernels/tensor.h"

namespace skippipe {

// Used by the event thread, which it never makes wait: the device says when a copy is done, and poll() tells whoever
// asked for it. Where a tensor's place is the host's own (the CPU), nothing needs a transfer.
class Transfers {
 public:
  // `wake` is called on a thread of the device's when poll() has something to do. The runtime and the memory that is
  // copied outlive this object, which waits for copies under way at its end.
  Transfers(Runtime& runtime, std::function<void()> wake);
  ~Transfers();
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  // Queue a copy of a contiguous tensor; its memory is left alone until `done` is called, within poll(). What was
  // queued on other streams must be over, but that an upload waits for downloads queued before.
  void upload(const Tensor& device, const ConstTensor& host, std::function<void()> done);
  void download(const Tensor& host, const ConstTensor& device, std::function<void()> done);
  // What is queued on the stream from now on waits for downloads under way. The stream's thread must be idle.
  void hold_back(Stream stream);

  // Tells of the copies that are over; true if there were any. Throws DeviceError where one failed.
  bool poll();

 private:
  // Copies in one direction end in their order.
  struct Queue {
    explicit Queue(Runtime& runtime) : stream(runtime) {}

    OwnedStream stream;
    std::deque<std::function<void()>> waiting;
    std::atomic<uint64_t> over{0};  // copies, ever; counted by the device's thread
    uint64_t told = 0;
  };

  void queue(Queue& direction, const Tensor& to, const ConstTensor& from, std::function<void()> done);
  bool poll(Queue& direction);

  Runtime& runtime_;
  const std::function<void()> wake_;
  Queue uploads_, downloads_;
};

}  // namespace skippipe
