#include "tests/simt/simulated_nccl.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/late_nccl.h"
#include "tests/simt/device_memory.h"
#include "tests/simt/simt_runtime.h"

namespace skippipe::simt {
namespace {

thread_local std::shared_ptr<SimulatedNccl> current;
thread_local std::string last_error;

SimulatedNccl& current_nccl() {
  SKP_CHECK(current != nullptr, "NCCL was called for a device that has none");
  return *current;
}

// A sum under way: what the ranks have brought.
struct Round {
  explicit Round(int ranks) : parts(static_cast<size_t>(ranks)) {}

  std::vector<std::vector<float>> parts;
  int arrived = 0;
};

// All the ranks that share an id.
class Group {
 public:
  explicit Group(int ranks) : ranks_(ranks) {}

  int ranks() const { return ranks_; }
  void join() {
    const std::lock_guard lock(mutex_);
    ++joined_;
  }
  bool complete() {
    const std::lock_guard lock(mutex_);
    return joined_ == ranks_;
  }
  void bring(int round, int rank, std::vector<float> part) {
    const std::lock_guard lock(mutex_);
    Round& there = rounds_.try_emplace(round, ranks_).first->second;
    there.parts[static_cast<size_t>(rank)] = std::move(part);
    ++there.arrived;
  }
  bool has_all(int round) {
    const std::lock_guard lock(mutex_);
    const auto found = rounds_.find(round);
    return found != rounds_.end() && found->second.arrived == ranks_;
  }
  std::vector<float> sum(int round) {
    const std::lock_guard lock(mutex_);
    const Round& there = rounds_.at(round);
    std::vector<float> sum = there.parts[0];
    for (size_t rank = 1; rank < there.parts.size(); ++rank) {
      SKP_CHECK(there.parts[rank].size() == sum.size(), "rank {} sums {} floats, rank 0 {}", rank,
                there.parts[rank].size(), sum.size());
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += there.parts[rank][i];
    }
    return sum;
  }

 private:
  const int ranks_;
  std::mutex mutex_;
  int joined_ = 0;
  std::map<int, Round> rounds_;
};

std::shared_ptr<Group> group_of(const ncclUniqueId& id, int ranks) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<Group>> groups;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Group>& group = groups[std::string(id.internal, sizeof(id.internal))];
  if (!group) group = std::make_shared<Group>(ranks);
  SKP_CHECK(group->ranks() == ranks, "{} ranks in a group of {}", ranks, group->ranks());
  return group;
}

// One rank's. What is queued on its stream outlives the communicator.
struct Member {
  std::shared_ptr<SimulatedNccl> nccl;
  std::shared_ptr<Group> group;
  int rank = 0;
  int rounds = 0;
  bool launching = false;
  std::atomic<bool> aborted = false;
};

void queue_sum(const std::shared_ptr<Member>& member, const float* from, float* to, size_t count, Stream stream) {
  const int round = member->rounds++;
  const auto bytes = static_cast<int64_t>(count * sizeof(float));
  queue_work(stream, [=] {
    if (member->aborted || member->nccl->fault == NcclFault::kSumHangs) return;
    const auto* const part = static_cast<const float*>(backing_of(static_cast<const void*>(from), bytes));
    member->group->bring(round, member->rank, {part, part + count});
  });
  queue_work_when(
      stream, [=] { return member->aborted || member->group->has_all(round); },
      [=] {
        if (member->aborted) return;
        std::vector<float> sum = member->group->sum(round);
        if (member->nccl->fault == NcclFault::kSumIsWrong) sum.back() += 1;
        std::memcpy(backing_of(static_cast<void*>(to), bytes), sum.data(), sum.size() * sizeof(float));
      });
}

}  // namespace

struct ncclComm {
  std::shared_ptr<Member> member;
};

void use_nccl_on_this_thread(std::shared_ptr<SimulatedNccl> nccl) { current = std::move(nccl); }

ncclResult_t ncclGetVersion(int* version) {
  *version = current_nccl().version;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<uint64_t> ids = 0;
  if (current_nccl().fault == NcclFault::kNoId) {
    last_error = "no network\nat all";
    return ncclSystemError;
  }
  ++current_nccl().ids;
  *id = {};
  const uint64_t number = ++ids;
  std::memcpy(id->internal, &number, sizeof(number));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  SKP_CHECK(config->blocking == 0 && rank >= 0 && rank < ranks);
  SimulatedNccl& nccl = current_nccl();
  auto member = std::make_shared<Member>();
  member->nccl = current;
  member->group = group_of(id, ranks);
  member->rank = rank;
  if (nccl.fault != NcclFault::kConnectHangs) member->group->join();
  *comm = new ncclComm{std::move(member)};
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  Member& member = *comm->member;
  const NcclFault fault = member.nccl->fault;
  *error = ncclSuccess;
  if (fault == NcclFault::kConnectFails) {
    last_error = "this GPU reaches no other";
    *error = ncclUnhandledCudaError;
  } else if (member.rounds > 0 && fault == NcclFault::kSumFails) {
    last_error = "connection closed by a peer";
    *error = ncclRemoteError;
  } else if (!member.group->complete() || std::exchange(member.launching, false)) {
    *error = ncclInProgress;
  }
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t operation,
                           ncclComm_t comm, cudaStream_t stream) {
  SKP_CHECK(type == ncclFloat32 && operation == ncclSum && comm->member->group->complete());
  ++comm->member->nccl->sums;
  queue_sum(comm->member, static_cast<const float*>(from), static_cast<float*>(to), count, stream);
  comm->member->launching = true;
  return ncclInProgress;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  Member& member = *comm->member;
  // A test that forgets to take the fault back fails by what it counts, and ends.
  if (!member.nccl->fault.wait_until_not(NcclFault::kAbortHangs, std::chrono::seconds(60))) return ncclInternalError;
  member.aborted = true;
  ++member.nccl->aborts;
  delete comm;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "another error";
  }
}

const char* ncclGetLastError(ncclComm_t) { return last_error.c_str(); }

}  // namespace skippipe::simt
