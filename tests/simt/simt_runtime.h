// The device's side of kernels/runtime.h for kernels that run on the CPU: an honest model of how a GPU works beside the
// program, so that what is in order by luck alone shows.
//
// Memory of the device can't be touched by the host. Streams are queues; a thread ("the device") does their work. It
// begins as late as it may: when the program waits, asks or queues a call, or by chance when it queues something; and
// it chooses by chance between streams that have something to do. Both chances come from the seed, and without calls
// and with one thread of the program's the order of all work follows from it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "kernels/runtime.h"

namespace skippipe::simt {

struct SimulatedNccl;

struct SimtOptions {
  uint64_t seed = 20250219;
  int64_t memory_bytes = int64_t{1} << 40;        // of Place::kDevice; more is a MemoryError
  std::shared_ptr<SimulatedNccl> nccl = nullptr;  // that connects the device to others; null: none
};

// Beyond the contract of Runtime, and as strict as CUDA or stricter:
// - Threads that did not call use_on_this_thread are refused (InternalError); the one that made the runtime has.
// - A copy reads its source when it is done, whatever memory that is. On the default stream (null) work is done at
// once.
// - Release waits for all streams, as cudaFree does. Destroying the runtime does the work that is still queued.
// - The first failure of a kernel ends all work, and every call throws it from then on.
// - While a stream records, the thread may only queue on it: all else is a DeviceError, calls included.
std::unique_ptr<Runtime> make_simt_runtime(const SimtOptions& options = {});

// Queues work of the device's on a stream of such a runtime; null: does it at once.
void queue_work(Stream stream, std::function<void()> work);
// The same of work that waits, on a stream, for what other devices do; other streams do not wait. `is_ready` is asked
// under locks of the device's: it may call nothing of it, and must come true before the runtime ends.
void queue_work_when(Stream stream, std::function<bool()> is_ready, std::function<void()> work);

}  // namespace skippipe::simt
