// What a run will need while it goes and when it ends, opened before it begins.
#pragma once

#include <span>

#include "engine/run/run.h"

namespace skippipe {

// For these nodes of the run, on this machine: the tokens of data nodes, the weights to begin with, the tokenizer that
// goes into checkpoints, and the places of checkpoints and metrics in the output folder. Reads files but for the
// weights' values; leaves everything as it is. Throws ConfigError naming the field of the run file.
void preflight(const TrainingRun& run, std::span<const int> nodes);

}  // namespace skippipe
