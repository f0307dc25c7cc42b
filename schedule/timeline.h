// A simulated run as a picture: a row per node, tasks and transfers over time.
#pragma once

#include <string>

#include "schedule/plan.h"
#include "schedule/simulator.h"

namespace skippipe {

// An SVG with its own background: per used node (in order of stages) a bar for every task and, below it, thin bars for
// what the node sends, from the start of sending to arrival. Hovering names each. `title` stands on top.
std::string render_timeline(const Plan& plan, const SimulationRecord& record, const std::string& title);

}  // namespace skippipe
