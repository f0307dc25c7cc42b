// How many microbatches a node can hold at once (T1), in the stage that it is given.
#pragma once

#include <optional>

#include "schedule/search/planner.h"

namespace skippipe {

// The node's own number; where its memory decides (schedule/plan/stage_memory.h), no more than that leaves beside the
// stage's state, and at most one for each microbatch. 0: the stage does not fit.
int slots_in_stage(const PlanRequest& request, int node, int stage);

// plan.node_slots from plan.stages; a node of no stage gets its own number. False: a node can't hold its stage, and has
// 0 slots.
bool assign_slots(const PlanRequest& request, Plan& plan);

// Replicas of a stage that can't be: nodes with 0 slots there, and pairs, in either direction, that exchange messages
// slower than request.max_replica_delay_s.
int count_misfits(const PlanRequest& request, const std::vector<int>& replicas, int stage);
// The first of them, with its numbers.
std::optional<PlanResult> check_placement(const PlanRequest& request, const std::vector<std::vector<int>>& stages);

// What max_replica_delay_s should be unless told otherwise. A reduction that is simulated keeps slow links out of
// stages by itself: infinite. Without gradients, what only outlying links exceed: ten times the delay of a message of
// activations between the median pair of nodes.
double default_replica_delay_s(const Network& network, const Workload& workload);

// Whether nodes can be found for all stages, as many as the request says or at least one; else why not, with the
// numbers.
std::optional<PlanResult> check_capacity(const PlanRequest& request);

}  // namespace skippipe
