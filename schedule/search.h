// What planners share: the plan that a request begins with, and a local search on simulated time.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/random.h"
#include "schedule/planner.h"

namespace skippipe {

// Throws ConfigError unless the request makes sense. Returns what makes it infeasible from the start, if anything.
std::optional<PlanResult> check_request(const PlanRequest& request);

// Stages per P = S - round(r * S).
int path_length(const PlanRequest& request);

// Everything but the paths: rules, workload, nodes, stages (given, or random ones of even size), and microbatches of
// `length` visits with priorities.
Plan begin_plan(const PlanRequest& request, const std::string& method, const PlanRules& rules, int length,
                Random& random);

// Changes stages or the nodes of visits, and keeps the rules; false: it found nothing to change.
using Move = std::function<bool(Plan& plan, Random& random)>;

// Exchanges two random nodes everywhere: also their stages if `across_stages`.
bool exchange_nodes(Plan& plan, Random& random, bool across_stages);

// Late acceptance hill climbing (Burke and Bykov 2017) from `start` for request.evaluations simulations, deadlocked
// candidates being worse the more tasks they leave; then ranks and predictions for the best.
PlanResult search(const PlanRequest& request, Plan start, const Move& move, Random& random);

// One for each method.
std::unique_ptr<Planner> make_full_planner();
std::unique_ptr<Planner> make_random_skip_planner();
std::unique_ptr<Planner> make_skippipe_no_collision_planner();
std::unique_ptr<Planner> make_skippipe_planner();
std::unique_ptr<Planner> make_joint_planner();

}  // namespace skippipe
