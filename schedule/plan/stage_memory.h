// What a node's memory leaves for the slots of a stage.
#pragma once

#include <cstddef>
#include <cstdint>

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

// What a stage may take of a node's memory. The rest is for the buffers of messages and of the gradients' sum, and for
// other programs.
inline constexpr double kStageMemoryShare = 0.75;

// A stage's state, as a workload has it, holds a copy of weights and moments from which checkpoints are written: so
// many times its gradients. With a GPU it lies on the host, of whose memory a network says nothing.
inline constexpr int kCheckpointStates = 3;

// Whether the memory decides how many slots a node has in a stage: it is known, and so is what stages take of it.
inline bool memory_decides(const NetworkNode& node, const Workload& workload) {
  return node.memory_bytes > 0 && !workload.stage_slot_bytes.empty();
}

// What a stage takes of the node's memory whatever its slots.
int64_t state_bytes(const NetworkNode& node, const Workload& workload, size_t stage);
// What a stage may take in all.
int64_t room_bytes(const NetworkNode& node);
// As many as that holds beside the state. Who wrote `slots` for a node knows it: there one, where the whole memory
// holds one. 0: the stage does not fit.
int64_t slots_in_memory(const NetworkNode& node, const Workload& workload, size_t stage);

}  // namespace skippipe
