// What planners share: how a request is checked, how a plan begins and ends.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "schedule/search/planner.h"

namespace skippipe {

// Throws ConfigError unless the request makes sense. Returns what makes it infeasible from the start, if anything.
std::optional<PlanResult> check_request(const PlanRequest& request);
// Of it, what the rules leave of paths: C2, and C4, which wants every stage trained.
std::optional<PlanResult> check_path_length(const PlanRequest& request);
// The same for a planner whose paths skip nothing, whatever the rules say.
std::optional<PlanResult> check_unskipped_request(const PlanRequest& request);

// Stages that a path visits: P = S - round(r * S).
int path_length(const PlanRequest& request);

// The least whole number of parts, each of at most `by`.
inline int divide_up(int value, int by) { return (value + by - 1) / by; }

// The fewest stages that paths visit if they are to train every stage (C4): M paths have M * (P - 1) visits for the
// S - 1 stages behind the first.
int shortest_path_length(int stages, int microbatches);
// Paths skip less than the rules ask for, if that leaves too few visits for every stage to have one.
void skip_less_if_needed(PlanRequest& request);

// The network's nodes at random, in stages of the sizes that the request says, else even ones.
std::vector<std::vector<int>> random_stages(const PlanRequest& request, Random& random);

// Everything but the paths: rules, workload, nodes, the request's stages and slots there, and microbatches of `length`
// visits with priorities.
Plan begin_plan(const PlanRequest& request, const std::string& method, const PlanRules& rules, int length);

// From stages, slots and paths: ranks and predictions, or which of the request's limits they break.
PlanResult finish_plan(const PlanRequest& request, Plan plan);

// The plan of a subnetwork of these nodes as one of the whole network, with the others in no stage.
Plan widen(const Plan& plan, const std::vector<int>& nodes, const Network& network);

// Nodes that no path visits cost their stage a part in the sum of gradients, norms and memory. They leave the stages
// where that makes the iteration no longer, but for those to keep.
void leave_out_idle(const PlanRequest& request, Plan& plan, const std::vector<int>& keep = {});

// One for each method.
std::unique_ptr<Planner> make_full_planner();
std::unique_ptr<Planner> make_random_skip_planner();
std::unique_ptr<Planner> make_skippipe_no_collision_planner();
std::unique_ptr<Planner> make_skippipe_planner();
std::unique_ptr<Planner> make_joint_planner();

}  // namespace skippipe
