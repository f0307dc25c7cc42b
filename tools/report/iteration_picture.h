// One iteration as it was planned or as it ran, and what all the traced ones have in common.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "engine/trace/trace_file.h"
#include "schedule/machine/simulator.h"
#include "schedule/pictures/critical_path.h"
#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

// Of a directed link, per iteration.
struct LinkUse {
  double messages = 0;
  double bytes = 0;
  double busy_s = 0;  // while at least one message was on its way, and not waiting for a slot of the receiver
};
using LinkUses = std::map<std::pair<int, int>, LinkUse>;  // by sender and receiver

struct IterationPicture {
  uint32_t iteration = 0;   // counts from 0
  double seconds = 0;       // from the first thing that its nodes did for it to the last
  SimulationRecord record;  // times from its start
  LinkUses links;
  std::vector<CriticalPiece> critical = {};  // of what is simulated
};

// Where a node's time went, in shares of it.
struct NodeTime {
  double computing = 0;  // tasks, norms, steps
  double waiting_forward = 0;
  double waiting_backward = 0;
  double waiting_reduction = 0;
  double waiting_norm = 0;

  double rest() const;  // moving data in and out, and between events
};

struct TracedIterations {
  uint32_t count = 0;        // whole ones; the run's first does not count if there are others
  IterationPicture typical;  // of median length; its links are means over all
  std::vector<NodeTime> nodes;
  std::vector<int> missing;  // nodes whose part of the trace is not there
  uint64_t dropped = 0;      // events without room, on all nodes
};

// The second of three iterations, simulated. Throws PlanError.
IterationPicture planned_iteration(const Plan& plan, const Network& network);
// Nothing if the trace has no whole iteration. The trace is aligned.
std::optional<TracedIterations> read_iterations(const Trace& trace, const Plan& plan);

}  // namespace skippipe
