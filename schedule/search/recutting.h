// Re-cutting: a plan's model in another number of stages, where the nodes that are left can't hold as many as before.
#pragma once

#include <vector>

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"
#include "schedule/search/planner.h"
#include "schedule/search/replanning.h"

namespace skippipe {

// What a workload's layers take when they are cut into stages of so many layers, by what its own stages take. Exact for
// gradients where stages of like layers have like ones. Of memory, what a stage takes beside its layers counts for each
// of them, so that it is never less than what the model takes. Throws ConfigError if the layers are not as many, and
// for more stages than one of a workload with one, which does not say what a layer takes.
Workload recut_workload(const Workload& workload, const std::vector<int>& stage_layers);

// A plan by "joint" in so many stages of layers as even as possible, for the nodes that are not gone, under the old
// plan's rules and for its microbatches; nodes go anywhere or are left out, and paths skip less where some stage would
// be in none of them. Of the options, `places` and `may_move` do not count; the default budget is ten times that of
// replan. Throws as replan does.
PlanResult recut(const Plan& old, const Network& network, int stages, const ReplanOptions& options);

// The same in as many stages as have a plan, one for each node that is left at most; else why even the first has none.
PlanResult recut_to_fit(const Plan& old, const Network& network, const ReplanOptions& options);

}  // namespace skippipe
