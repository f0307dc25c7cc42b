// How many microbatch slots a device has room for.
#pragma once

#include <cstdint>

#include "engine/model/stage.h"
#include "kernels/context.h"
#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

struct StageMemory {
  int64_t state_bytes = 0;  // weights, gradients, optimizer state and scratch
  int64_t slot_bytes = 0;
};

// What the stage of `spec` takes, whose slots are ignored. Throws as Stage::plan_memory does.
StageMemory stage_memory(StageSpec spec, const Context& context);

// Tells the workload what its stages take of a node's memory, computing on the CPU. Throws as Stage::plan_memory does,
// and ConfigError unless the stages' layers add up to the model's.
void describe_memory(Workload& workload, const ModelConfig& config, const BatchShape& batch, Dtype dtype);

// The most slots, up to `most`, with which the stage of `spec` (whose slots are ignored) stays within kStageMemoryShare
// of the memory. Throws MemoryError, with the numbers, if not even one does.
int fitting_slots(StageSpec spec, const Context& context, const AvailableMemory& memory, int most);

}  // namespace skippipe
