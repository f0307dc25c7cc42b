// The published two-step planner (arXiv:2502.19913): stages as DT-FM places them, then paths by conflict-based search.
//
//   skippipe-no-collision  C4 and T1 only. As many paths per data node as it has slots, under way together.
//   skippipe               T2 too. One path per data node: the microbatches in its slots follow each other along it.
//
// The paths of a data node are used over and over until its share of the microbatches is done, its share being
// microbatches / data nodes, as even as possible. Where C4 can't hold with so few paths, or data nodes have unequal
// shares, there are more: the smallest number that divides the share and the visits evenly, else one for each
// microbatch. Paths that start when earlier ones of their data node have ended are another wave: the search treats
// waves as if they did not meet. Of the solutions that it finds, simulated time decides, as published.
//
// Unlike published, where the request leaves the stages open, paths are searched behind every placement in the genetic
// search's last population, and simulated time decides between these too: what DT-FM minimizes says too little about
// skipping paths (of placements of the published example within 1 % of the least cost, the plans take 33 to 48 s).
#include <algorithm>

#include "base/error.h"
#include "schedule/machine/ranking.h"
#include "schedule/search/capacity.h"
#include "schedule/search/conflict_search.h"
#include "schedule/search/dtfm_placement.h"
#include "schedule/search/paths.h"
#include "schedule/search/planning.h"

namespace skippipe {
namespace {

constexpr double kPlacementShare = 0.5;  // of the budget

using Paths = std::vector<std::vector<int>>;  // nodes, for each agent

// Which agent plans the path of each microbatch.
struct Assignment {
  std::vector<PathAgent> agents;
  std::vector<size_t> agent_of_microbatch;
};

// A data node's share of the microbatches.
int share_of(const PlanRequest& request, int data_node_index) {
  return split_evenly(request.microbatches,
                      static_cast<int>(request.stages[0].size()))[static_cast<size_t>(data_node_index)];
}

// How many paths a data node with this share has, at least `wanted` if C4 takes more.
int paths_each(const PlanRequest& request, int length, int share, int wanted) {
  const auto data_nodes = static_cast<int>(request.stages[0].size());
  wanted = std::min(wanted, share);
  if (length == 1) return wanted;
  if (!request.rules.equal_exposure) {  // enough for every stage to have one
    const int all = divide_up(request.stage_count() - 1, length - 1);
    return std::max(wanted, std::min(share, divide_up(all, data_nodes)));
  }
  if (request.microbatches % data_nodes != 0) return share;
  for (int paths = wanted; paths < share; ++paths)
    if (share % paths == 0 && int64_t{data_nodes} * paths * (length - 1) % (request.stage_count() - 1) == 0)
      return paths;
  return share;
}

Assignment assign(const PlanRequest& request, int length, Collisions collisions) {
  const auto data_nodes = static_cast<int>(request.stages[0].size());
  // C4 counts paths, which must then stand for as many microbatches each.
  int fewest_slots = std::numeric_limits<int>::max();
  for (const int node : request.stages[0]) fewest_slots = std::min(fewest_slots, slots_in_stage(request, node, 0));
  const int wanted = collisions == Collisions::kAvoided ? 1 : fewest_slots;
  Assignment result;
  result.agent_of_microbatch.resize(static_cast<size_t>(request.microbatches));
  for (int d = 0; d < data_nodes; ++d) {
    const int share = share_of(request, d);
    if (share == 0) continue;
    const int node = request.stages[0][static_cast<size_t>(d)];
    const int slots = slots_in_stage(request, node, 0);
    const int paths = paths_each(request, length, share, wanted);
    const int uses = (share + paths - 1) / paths;
    // Microbatches in a row take one path, or one after the other.
    const int in_flight = collisions == Collisions::kAvoided ? std::min(slots, uses) : 1;
    const int together = std::max(1, slots / in_flight);
    const size_t first = result.agents.size();
    for (int p = 0; p < paths; ++p)
      result.agents.push_back({.start = {.data_node = node, .at_s = p % together * forward_s(request, node, 0)},
                               .wave = p / together,
                               .in_flight = in_flight});
    for (int i = 0; i < share; ++i) {
      const int path = in_flight > 1 ? i / uses : i % paths;
      result.agent_of_microbatch[static_cast<size_t>(i * data_nodes + d)] = first + static_cast<size_t>(path);
    }
  }
  return result;
}

// Each agent through stages drawn for it, in ascending order, over the replicas that suit it best once those before it
// have taken theirs. In one order of stages, visits can't wait in a circle.
Paths ascending_paths(const PlanRequest& request, int length, const Assignment& assignment,
                      const std::vector<PathStages>& stages) {
  PlanRequest ascending = request;
  ascending.rules.max_swaps = 0;
  PathSearch search(ascending, length);
  std::vector<double> prices(request.network.nodes.size(), 0);
  Paths paths;
  for (size_t agent = 0; agent < assignment.agents.size(); ++agent) {
    PathLimits limits;
    limits.banned_stages.assign(request.stages.size(), true);
    for (const int stage : stages[agent]) limits.banned_stages[static_cast<size_t>(stage)] = false;
    const auto path = search.run(assignment.agents[agent].start, limits, prices);
    SKP_CHECK(path.has_value(), "agent {} has no path through its stages", agent);
    for (size_t i = 1; i < path->nodes.size(); ++i) {
      const int node = path->nodes[i];
      const auto stage = static_cast<size_t>(stages[agent][i - 1]);
      prices[static_cast<size_t>(node)] += forward_s(request, node, stage) + backward_s(request, node, stage);
    }
    paths.push_back(path->nodes);
  }
  return paths;
}

void take(Plan& plan, const Assignment& assignment, const Paths& paths) {
  for (size_t m = 0; m < plan.microbatches.size(); ++m) {
    const std::vector<int>& nodes = paths[assignment.agent_of_microbatch[m]];
    for (size_t i = 0; i < nodes.size(); ++i) plan.microbatches[m].visits[i].node = nodes[i];
  }
}

class SkippipePlanner : public Planner {
 public:
  SkippipePlanner(std::string method, Collisions collisions) : method_(std::move(method)), collisions_(collisions) {}

  PlanResult plan(const PlanRequest& request) const override {
    if (auto infeasible = check_request(request)) return *std::move(infeasible);
    const int length = path_length(request);
    BudgetMeter meter(request);
    meter.allow(kPlacementShare);
    const Placements placements = place_stages(request, meter);
    if (placements.best_first.empty()) return placements.why;
    PlanRequest placed = request;
    PlanResult best;
    for (size_t i = 0; i < placements.best_first.size(); ++i) {
      const double tried = static_cast<double>(i + 1) / static_cast<double>(placements.best_first.size());
      meter.allow(kPlacementShare + (1 - kPlacementShare) * tried);
      if (best.plan && !meter.left()) continue;
      placed.stages = placements.best_first[i].stages;
      PlanResult result = plan_paths(placed, length, meter);
      if (!result.plan) return result;
      if (!best.plan || result.plan->predicted.iteration_s < best.plan->predicted.iteration_s) best = std::move(result);
    }
    return best;
  }

 private:
  PlanResult plan_paths(const PlanRequest& request, int length, BudgetMeter& meter) const {
    const Assignment assignment = assign(request, length, collisions_);
    Random random(request.seed, {4});
    const auto stages = draw_stages(request, assignment.agents.size(), length, random);
    if (!stages) return no_paths(request, length);
    Plan plan = begin_plan(request, method_, request.rules, length);
    std::optional<Plan> best;
    Simulator simulator(request.network);
    const auto consider = [&](const Paths& paths) {
      take(plan, assignment, paths);
      if (!complete_plan(plan, simulator)) return;
      if (best && best->predicted.iteration_s <= plan.predicted.iteration_s) return;
      best = plan;
      meter.found(plan.predicted.iteration_s);
    };
    for (const std::vector<TimedPath>& solution :
         ConflictSearch(request, length, assignment.agents, collisions_, meter).run()) {
      Paths paths;
      for (const TimedPath& path : solution) paths.push_back(path.nodes);
      consider(paths);
    }
    if (!best) consider(ascending_paths(request, length, assignment, *stages));
    SKP_CHECK(best.has_value(), "{}", simulator.describe_deadlock());
    return {.plan = std::move(best)};
  }

  std::string method_;
  Collisions collisions_;
};

}  // namespace

std::unique_ptr<Planner> make_skippipe_planner() {
  return std::make_unique<SkippipePlanner>("skippipe", Collisions::kAvoided);
}

std::unique_ptr<Planner> make_skippipe_no_collision_planner() {
  return std::make_unique<SkippipePlanner>("skippipe-no-collision", Collisions::kIgnored);
}

}  // namespace skippipe
