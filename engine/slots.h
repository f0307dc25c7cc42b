// How many microbatch slots a device has room for.
#pragma once

#include <cstdint>

#include "engine/stage.h"
#include "kernels/context.h"

namespace skippipe {

// What a stage's slots and parameters may take of a node's memory. The rest is for the buffers of messages and of the
// gradients' sum, for checkpoints being written, and for other programs.
inline constexpr double kStageMemoryShare = 0.75;

// The most slots, up to `most`, with which the stage of `spec` (whose slots are ignored) stays within kStageMemoryShare
// of memory_bytes. Throws MemoryError, with the numbers, if not even one does.
int fitting_slots(StageSpec spec, const Context& context, int64_t memory_bytes, int most);

}  // namespace skippipe
