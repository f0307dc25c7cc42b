// NCCL for simulated devices of one process (simt_runtime.h), for communicators that do not block.
//
// Nothing is there at once: calls begin what ncclCommGetAsyncError then says to be in progress. A sum waits on its
// stream until all ranks have come, for ever if one does not, and adds in the order of the ranks. Who aborts tells
// nobody: the others' sums hang until they abort as well, as they do between GPUs of one machine.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>

namespace skippipe::simt {

enum class NcclFault {
  kNone,
  kNoId,
  kConnectFails,
  kConnectHangs,
  kSumIsWrong,
  kSumHangs,   // this rank does not come
  kSumFails,   // while it waits on the stream
  kAbortHangs  // for as long as the fault is not taken back
};

// A fault that tests plant and take back while nodes run.
class PlantedNcclFault {
 public:
  PlantedNcclFault& operator=(NcclFault fault) {
    const std::lock_guard lock(mutex_);
    fault_ = fault;
    changed_.notify_all();
    return *this;
  }
  operator NcclFault() const {  // NOLINT
    const std::lock_guard lock(mutex_);
    return fault_;
  }
  // False if it was still there at the limit.
  bool wait_until_not(NcclFault fault, std::chrono::seconds limit) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, limit, [&] { return fault_ != fault; });
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  NcclFault fault_ = NcclFault::kNone;
};

// That of one device. Tests change and read it while nodes run.
struct SimulatedNccl {
  int version = 22809;
  PlantedNcclFault fault;
  std::atomic<int> ids = 0;     // made
  std::atomic<int> sums = 0;    // begun
  std::atomic<int> aborts = 0;  // done
};

// Of the device that the calling thread has made its own last, as NCCL works for the current device. May be null.
void use_nccl_on_this_thread(std::shared_ptr<SimulatedNccl> nccl);

}  // namespace skippipe::simt
