#include "schedule/search.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "schedule/capacity.h"
#include "schedule/ranking.h"
#include "schedule/request_values.h"
#include "schedule/simulator.h"

namespace skippipe {
namespace {

// A candidate must beat the current plan or that of budget / 200 steps ago. Of the divisors 20, 50, 200, 500 and 2,000
// this one gave the best full plans of the published example at budgets of 2,000 and 20,000, and skipping ones within 3
// %.
constexpr int kBudgetOverLateness = 200;
constexpr int kEvaluationsPerReport = 500;
// A node that can't hold its stage weighs more than all the tasks that a deadlock leaves.
constexpr int64_t kMisfit = int64_t{1} << 40;

// Lower is better: first of all no deadlock.
struct Cost {
  int64_t unfinished = 0;
  double seconds = 0;

  auto operator<=>(const Cost&) const = default;
};

// The parts of a plan that moves change; copied without allocation once capacities have settled.
void copy_paths(Plan& to, const Plan& from) {
  to.stages = from.stages;
  to.microbatches = from.microbatches;
}

void check_given_stages(const PlanRequest& request) {
  if (request.stages.size() != static_cast<size_t>(request.stage_count()))
    throw ConfigError("{} stages of nodes are given for {} stages of layers", request.stages.size(),
                      request.stage_count());
  std::vector<bool> used(request.network.nodes.size(), false);
  for (size_t s = 0; s < request.stages.size(); ++s) {
    if (request.stages[s].empty()) throw ConfigError("stage {} has no node", s);
    for (const int node : request.stages[s]) {
      if (node < 0 || node >= request.network.size() || used[static_cast<size_t>(node)])
        throw ConfigError("stage {}: node {} is used twice or not one of {}", s, node, request.network.size());
      used[static_cast<size_t>(node)] = true;
    }
  }
}

void check_nodes_per_stage(const PlanRequest& request) {
  const std::vector<int>& counts = request.nodes_per_stage;
  if (counts.size() != static_cast<size_t>(request.stage_count()))
    throw ConfigError("numbers of nodes are given for {} stages, expected {}", counts.size(), request.stage_count());
  int64_t sum = 0;
  for (const int count : counts) {
    if (count < 1) throw ConfigError("a stage of {} nodes, expected at least 1", count);
    sum += count;
  }
  if (sum != request.network.size())
    throw ConfigError("the stages have {} nodes in all, expected the network's {}", sum, request.network.size());
}

std::vector<std::vector<int>> random_stages(const PlanRequest& request, Random& random) {
  std::vector<int> nodes(request.network.nodes.size());
  std::iota(nodes.begin(), nodes.end(), 0);
  random.shuffle(nodes);
  const std::vector<int> counts = request.nodes_per_stage.empty()
                                      ? split_evenly(request.network.size(), request.stage_count())
                                      : request.nodes_per_stage;
  std::vector<std::vector<int>> stages;
  auto next = nodes.begin();
  for (const int count : counts) {
    std::vector<int>& stage = stages.emplace_back(next, next + count);
    std::sort(stage.begin(), stage.end());
    next += count;
  }
  return stages;
}

void exchange(int& node, int a, int b) {
  if (node == a) {
    node = b;
  } else if (node == b) {
    node = a;
  }
}

}  // namespace

std::vector<int> split_evenly(int count, int stages) {
  std::vector<int> counts;
  for (int s = 0; s < stages; ++s) counts.push_back(count / stages + (s < count % stages ? 1 : 0));
  return counts;
}

std::optional<PlanResult> check_request(const PlanRequest& request) {
  const int nodes = request.network.size();
  const int stages = request.stage_count();
  if (stages < 1) throw ConfigError("{} stages, expected at least 1", stages);
  check_values(request);
  const SearchBudget& budget = request.budget;
  if (budget.evaluations < 0 || !(budget.seconds >= 0) || (budget.evaluations == 0 && budget.seconds == 0))
    throw ConfigError("a budget of {} evaluations and {} s, expected more of one of them", budget.evaluations,
                      budget.seconds);
  if (budget.threads < 1) throw ConfigError("{} threads, expected at least 1", budget.threads);
  if (!request.stages.empty()) {
    check_given_stages(request);
  } else if (stages > nodes) {
    return PlanResult{.rule = "C1",
                      .why = fmt::format("{} stages need at least as many nodes, found {}", stages, nodes)};
  } else if (!request.nodes_per_stage.empty()) {
    check_nodes_per_stage(request);
  }
  return check_capacity(request);
}

int path_length(const PlanRequest& request) {
  return request.stage_count() - static_cast<int>(std::lround(request.rules.skip_ratio * request.stage_count()));
}

Plan begin_plan(const PlanRequest& request, const std::string& method, const PlanRules& rules, int length,
                Random& random) {
  Plan plan;
  plan.method = method;
  plan.seed = request.seed;
  plan.rules = rules;
  plan.workload = request.workload;
  for (const NetworkNode& node : request.network.nodes) plan.node_names.push_back(node.name);
  plan.stages = request.stages.empty() ? random_stages(request, random) : request.stages;
  plan.microbatches.resize(static_cast<size_t>(request.microbatches));
  for (PlannedMicrobatch& microbatch : plan.microbatches) microbatch.visits.resize(static_cast<size_t>(length));
  assign_priorities(plan);
  return plan;
}

bool exchange_nodes(Plan& plan, Random& random, bool across_stages) {
  const size_t stage_a = random.below(plan.stages.size());
  const size_t stage_b = across_stages ? random.below(plan.stages.size()) : stage_a;
  int& a = plan.stages[stage_a][random.below(plan.stages[stage_a].size())];
  int& b = plan.stages[stage_b][random.below(plan.stages[stage_b].size())];
  if (a == b) return false;
  for (PlannedMicrobatch& microbatch : plan.microbatches)
    for (PlannedVisit& visit : microbatch.visits) exchange(visit.node, a, b);
  std::swap(a, b);
  return true;
}

PlanResult search(const PlanRequest& request, Plan start, const Move& move, Random& random) {
  Simulator simulator(request.network);
  int evaluations = 0;
  const auto evaluate = [&](Plan& plan) {
    ++evaluations;
    if (!assign_slots(request, plan)) return Cost{kMisfit * std::ranges::count(plan.node_slots, 0), 0};
    const Simulation& simulation = simulator.run(plan, {.admission = Admission::kAnySlot});
    return Cost{simulation.deadlock ? simulation.unfinished_tasks : 0, simulation.iteration_s};
  };
  Plan current = std::move(start);
  Cost current_cost = evaluate(current);
  Plan candidate = current, best = current;
  Cost best_cost = current_cost;
  std::vector<Cost> history(static_cast<size_t>(1 + request.budget.evaluations / kBudgetOverLateness), current_cost);
  // A move that finds nothing to change counts as a step, so that the search ends on tiny instances.
  for (int step = 0; evaluations < request.budget.evaluations && step < 4 * request.budget.evaluations; ++step) {
    copy_paths(candidate, current);
    if (!move(candidate, random)) continue;
    const Cost cost = evaluate(candidate);
    Cost& late = history[static_cast<size_t>(step) % history.size()];
    if (cost <= current_cost || cost <= late) {
      std::swap(current.stages, candidate.stages);
      std::swap(current.microbatches, candidate.microbatches);
      current_cost = cost;
      if (cost < best_cost) {
        best_cost = cost;
        copy_paths(best, current);
      }
    }
    late = std::min(late, current_cost);
    if (request.progress && evaluations % kEvaluationsPerReport == 0)
      request.progress(
          {.evaluations = evaluations,
           .best_s = best_cost.unfinished > 0 ? std::numeric_limits<double>::infinity() : best_cost.seconds});
  }
  if (!assign_slots(request, best))
    return {.rule = "T1", .why = fmt::format("in all {} candidates a node can't hold its stage", evaluations)};
  if (!complete_plan(best, simulator))
    return {.rule = "T1",
            .why = fmt::format("all {} candidates deadlock on full slots; the best leaves {} tasks: more slots, fewer "
                               "swaps or fewer microbatches are needed",
                               evaluations, best_cost.unfinished)};
  return {.plan = std::move(best)};
}

const std::vector<std::string>& planning_methods() {
  static const std::vector<std::string> kMethods = {"full", "random-skip", "skippipe-no-collision", "skippipe",
                                                    "joint"};
  return kMethods;
}

std::unique_ptr<Planner> make_planner(std::string_view method) {
  if (method == "full") return make_full_planner();
  if (method == "random-skip") return make_random_skip_planner();
  if (method == "skippipe-no-collision") return make_skippipe_no_collision_planner();
  if (method == "skippipe") return make_skippipe_planner();
  if (method == "joint") return make_joint_planner();
  throw ConfigError("planning method '{}', expected one of {}", method, fmt::join(planning_methods(), ", "));
}

}  // namespace skippipe
