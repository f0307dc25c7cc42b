// Whether the nodes of a run fit their memory, what they recompute so that they do, and what would make them fit.
#pragma once

#include <span>

#include "engine/run/run.h"

namespace skippipe {

// Decides what every node recomputes: what the run file says; with "auto" the first of none, attention and block with
// which the node stays within its limit (memory_limits), or the one that takes least where none does. The nodes in
// `on_this_device`, the backend's, share its memory: if they need more than it has left, they recompute more. The
// others are taken to have devices like it. Throws as plan_node_memory does.
void choose_recompute(TrainingRun& run, Backend& backend, std::span<const int> on_this_device);

// The memory plan as a table that says whose it is.
std::string memory_table(const TrainingRun& run, int node, Backend& backend);

// Throws MemoryError unless the node fits. One line: the numbers, and which setting would make it fit.
void check_memory(const TrainingRun& run, Backend& backend, int node);
// The same for each of these nodes, and for all of them side by side on the backend's device.
void check_memory(const TrainingRun& run, Backend& backend, std::span<const int> on_this_device);

}  // namespace skippipe
