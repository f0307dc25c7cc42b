// A run, simulated or real, as a picture: a row per node, tasks and transfers over time.
#pragma once

#include <string>
#include <vector>

#include "schedule/machine/simulator.h"
#include "schedule/pictures/critical_path.h"
#include "schedule/plan/plan.h"

namespace skippipe {

struct TimelineOptions {
  std::string title = {};                    // stands on top, if there is one
  double plot_width = 1280;                  // of the time axis, in pixels
  double end_s = 0;                          // the axis reaches so far, or farther if the record does
  std::vector<CriticalPiece> critical = {};  // marked by a line from node to node; empty: not marked
};

// An SVG with its own background: per used node (in order of stages) a bar for every task and, below it, thin bars for
// what the node sends, from the start of sending to arrival. Hovering names each. Inside of a page whose style sheet
// sets fill or stroke of the classes paper, ink, muted, stripe, grid, bar and critical, it takes on the page's colours.
std::string render_timeline(const Plan& plan, const SimulationRecord& record, const TimelineOptions& options);

}  // namespace skippipe
