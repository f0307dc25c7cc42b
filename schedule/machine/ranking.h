// From paths to a plan that can run: priorities by rule of thumb, ranks from a simulated run, predicted times.
#pragma once

#include "schedule/machine/simulator.h"
#include "schedule/plan/plan.h"

namespace skippipe {

// Unique priorities by place in the start order: backward before loss before forward, then the earlier microbatch.
void assign_priorities(Plan& plan);

// Given stages, paths, slots, priorities and workload: simulates with admission to any free slot, takes the order in
// which each node let its visits in, and that of its gradient passes, as its ranks, and predicts times from a ranked
// run (which repeats the first one exactly). False: the run deadlocks, so that these paths need others or fewer swaps;
// simulator.describe_deadlock() says where.
[[nodiscard]] bool complete_plan(Plan& plan, Simulator& simulator);

// Fills plan.predicted from a ranked run of several iterations. False: it deadlocks.
[[nodiscard]] bool predict(Plan& plan, Simulator& simulator);

}  // namespace skippipe
