// A plan as a picture: stages as columns, nodes as boxes, a line for each microbatch's path.
#pragma once

#include <string>

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

// An SVG with its own background (see svg.h). A line per microbatch in the colour of its data node, or where all have
// the same one in the colour of its path; lines of the same hop run side by side, lines that visit an earlier stage
// turn round. Hovering names paths and nodes. Nodes without a stage stand below. The network gives the regions: it must
// be the plan's.
std::string render_plan_map(const Plan& plan, const Network& network, const std::string& title);

}  // namespace skippipe
