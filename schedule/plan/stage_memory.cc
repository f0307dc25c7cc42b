#include "schedule/plan/stage_memory.h"

#include <algorithm>

namespace skippipe {

int64_t state_bytes(const NetworkNode& node, const Workload& workload, size_t stage) {
  const int64_t bytes = workload.stage_state_bytes[stage];
  const bool has_gpu = node.device.starts_with("cuda");
  return has_gpu ? std::max<int64_t>(0, bytes - kCheckpointStates * workload.stage_gradient_bytes[stage]) : bytes;
}

int64_t room_bytes(const NetworkNode& node) {
  return static_cast<int64_t>(kStageMemoryShare * static_cast<double>(node.memory_bytes));
}

}  // namespace skippipe
