// How many microbatch slots a device has room for.
#pragma once

#include <cstdint>

#include "engine/model/recompute.h"
#include "engine/model/stage.h"
#include "kernels/context.h"
#include "schedule/plan/plan.h"
#include "schedule/plan/stage_memory.h"

namespace skippipe {

// Of the device.
struct StageMemory {
  int64_t state_bytes = 0;  // weights, gradients, optimizer state, scratch; on the CPU also what checkpoints need
  int64_t slot_bytes = 0;
};

// What the stage of `spec` takes, whose slots are ignored, on a node that writes checkpoints. Throws as
// Stage::plan_memory_elsewhere does.
StageMemory stage_memory(StageSpec spec, const Context& context);

// Tells the workload what its stages take of a node's memory, computing on a CPU (of this machine or another). Throws
// as stage_memory does, and ConfigError unless the stages' layers add up to the model's.
void describe_memory(Workload& workload, const ModelConfig& config, const BatchShape& batch, Dtype dtype,
                     Recompute recompute = Recompute::kNone);

// The most slots, up to `most`, with which the stage of `spec` (whose slots are ignored) stays within kStageMemoryShare
// of the memory, also on a node that writes checkpoints. Throws MemoryError, with the numbers, if not even one does.
int fitting_slots(StageSpec spec, const Context& context, const AvailableMemory& memory, int most);

}  // namespace skippipe
