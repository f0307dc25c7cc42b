#include "schedule/plan/stage_memory.h"

#include <algorithm>

namespace skippipe {

int64_t state_bytes(const NetworkNode& node, const Workload& workload, size_t stage) {
  const int64_t bytes = workload.stage_state_bytes[stage];
  const bool has_gpu = node.device.starts_with("cuda");
  return has_gpu ? std::max<int64_t>(0, bytes - kCheckpointStates * workload.stage_gradient_bytes[stage]) : bytes;
}

int64_t slots_in_memory(const NetworkNode& node, const Workload& workload, size_t stage) {
  const int64_t state = state_bytes(node, workload, stage);
  const int64_t slot = std::max<int64_t>(1, workload.stage_slot_bytes[stage]);
  const int64_t left = room_bytes(node) - state;
  if (left >= slot) return left / slot;
  return !node.slots_from_memory && node.memory_bytes - state >= slot ? 1 : 0;
}

int64_t room_bytes(const NetworkNode& node) {
  return static_cast<int64_t>(kStageMemoryShare * static_cast<double>(node.memory_bytes));
}

}  // namespace skippipe
