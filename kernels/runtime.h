// A device's memory, streams and graphs: what the engine needs of it beside operations.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "kernels/communicator.h"
#include "kernels/host_memory.h"

namespace skippipe {

// Work that is done in the order in which it was queued; Context::stream. Null: the device's default stream, which the
// CPU has alone.
using Stream = void*;

enum class Place : uint8_t {
  kDevice,  // what operations compute in; on a GPU the host can't touch it
  kHost,    // of the host, where the device's copies read and write it directly (pinned)
};

// Work that was recorded once and can be queued again whole.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void replay(Stream stream) = 0;
};

// Any thread may use it, but only after use_on_this_thread, and a stream is one thread's at a time. What was queued
// fails later: the next call that waits or asks throws DeviceError, and from then on all of them may.
class Runtime {
 public:
  virtual ~Runtime() = default;

  // Makes the device the thread's own. Needed on each thread that uses this object or the backend, cheap if repeated.
  virtual void use_on_this_thread() {}

  // Zeroed, at a multiple of 256 bytes; at least one byte. Throws MemoryError if there is not so much.
  void* allocate(Place place, int64_t bytes) {
    ++allocations_;
    return do_allocate(place, bytes);
  }
  virtual void release(Place place, void* memory, int64_t bytes) noexcept = 0;
  // Calls of allocate so far, for the tests that count.
  int64_t allocations() const { return allocations_; }
  // What this process could still take in the place.
  virtual AvailableMemory available(Place place) = 0;
  int64_t available_bytes(Place place) { return available(place).bytes; }
  // What several processes could still take there together.
  virtual AvailableMemory available_to_all(Place place) { return available(place); }

  // Streams do not wait for one another, nor for the default stream, but where wait_for says so.
  virtual Stream make_stream() = 0;
  virtual void destroy_stream(Stream stream) noexcept = 0;
  // Queues a copy between any two places of this device and the host. Memory of the host that is not Place::kHost's may
  // make the call wait.
  virtual void copy(Stream stream, void* to, const void* from, int64_t bytes) = 0;
  // What is queued on `stream` from now on waits for what was queued on `other` before.
  virtual void wait_for(Stream stream, Stream other) = 0;
  // Queues a call, on a thread of the device's. It must be short, throw nothing and use nothing of this object; it does
  // not come once something queued has failed.
  virtual void call(Stream stream, std::function<void()> notify) = 0;
  // Waits for all that was queued.
  virtual void finish(Stream stream) = 0;
  // Whether all is done; throws where something failed. Waits for nothing.
  virtual bool finished(Stream stream) = 0;
  // How long the device takes for what `queue_work` queues on the stream, which should be idle; waits for it.
  virtual double seconds(Stream stream, const std::function<void()>& queue_work) = 0;

  // Null where the device has no graphs (the CPU): `work` was not called. Else records, without doing it, what `work`
  // queues on the stream, which must be the same each time: addresses, shapes and scalars are kept. It may neither
  // wait, call, allocate nor release, and must have run without a graph before, so that libraries have taken what they
  // need.
  virtual std::unique_ptr<Graph> capture(Stream stream, const std::function<void()>& work) = 0;

  // What connects this device to those of other processes; null where there is nothing of the kind (the CPU). Throws
  // DeviceError where that can't be used.
  virtual std::unique_ptr<CommunicatorLibrary> load_communicators() { return nullptr; }

 private:
  virtual void* do_allocate(Place place, int64_t bytes) = 0;

  std::atomic<int64_t> allocations_ = 0;
};

// A stream of its owner's, or the default stream.
class OwnedStream {
 public:
  explicit OwnedStream(Runtime& runtime) : runtime_(runtime), stream_(runtime.make_stream()) {}
  ~OwnedStream() { runtime_.destroy_stream(stream_); }
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;

  Stream get() const { return stream_; }

 private:
  Runtime& runtime_;
  Stream stream_;
};

}  // namespace skippipe
