// What planners of partial pipelines share: which stages the paths visit under C2-C4 (arXiv:2502.19913).
#pragma once

#include <optional>
#include <vector>

#include "base/random.h"
#include "schedule/machine/cost_model.h"
#include "schedule/search/planner.h"

namespace skippipe {

using PathStages = std::vector<int>;  // of one path behind stage 0, in order of visit

// How far a path's visits exceed C3, 0: it keeps the rule.
int disorder(const PathStages& path, const PlanRules& rules);

bool contains(const PathStages& path, int stage);

// The position in `path` of a random stage that `other` does not visit; -1 if there is none.
int random_difference(const PathStages& path, const PathStages& other, Random& random);

// Stages for every path, ascending, each of the S - 1 as often as the others (C4), ties broken at random. `length`
// counts the visits behind stage 0.
std::vector<PathStages> balanced_stages(size_t microbatches, size_t length, int stage_count, Random& random);

// Exchanges and replaces stages until no path jumps too far (C3); no stage loses its last path. False: not found.
bool repair_jumps(std::vector<PathStages>& paths, const PlanRules& rules, int stage_count, Random& random);

// Legal stages, ascending, for each of `count` paths of `length` visits, under C2-C4. Nothing: not found.
std::optional<std::vector<PathStages>> draw_stages(const PlanRequest& request, size_t count, int length,
                                                   Random& random);

// Gives every visit the replica of its stage with the least computing so far. `plan` has its stages, and as many visits
// per microbatch as `paths` say.
void place_by_load(const PlanRequest& request, const std::vector<PathStages>& paths, Plan& plan);

// What it means that draw_stages found nothing.
PlanResult no_paths(const PlanRequest& request, int length);

// Seconds of one microbatch's passes on a node of a stage, and of a message of activations there and one of gradients
// back, on free links.
TaskSeconds task_seconds(const PlanRequest& request, int node, size_t stage);
double forward_s(const PlanRequest& request, int node, size_t stage);
double backward_s(const PlanRequest& request, int node, size_t stage);
double loss_s(const PlanRequest& request, int data_node);
double message_s(const PlanRequest& request, int from, int to);
double round_trip_s(const PlanRequest& request, int a, int b);

}  // namespace skippipe
