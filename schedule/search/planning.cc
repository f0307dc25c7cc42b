#include "schedule/search/planning.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "base/error.h"
#include "schedule/machine/ranking.h"
#include "schedule/machine/simulator.h"
#include "schedule/plan/rules.h"
#include "schedule/search/capacity.h"
#include "schedule/search/request_values.h"

namespace skippipe {
namespace {

constexpr double kVisitsPerNorm = 0.03;  // that take as long to simulate as one such message

void check_given_stages(const PlanRequest& request) {
  if (request.stages.size() != static_cast<size_t>(request.stage_count()))
    throw ConfigError("{} stages of nodes are given for {} stages of layers", request.stages.size(),
                      request.stage_count());
  std::vector<bool> used(request.network.nodes.size(), false);
  for (size_t s = 0; s < request.stages.size(); ++s) {
    if (request.stages[s].empty()) throw ConfigError("stage {} has no node", s);
    for (const int node : request.stages[s]) {
      if (node < 0 || node >= request.network.size())
        throw ConfigError("stage {}: found node {}, expected 0 to {}", s, node, request.network.size() - 1);
      if (used[static_cast<size_t>(node)]) throw ConfigError("stage {}: node {} has a stage already", s, node);
      used[static_cast<size_t>(node)] = true;
    }
  }
}

void check_nodes_per_stage(const PlanRequest& request) {
  const std::vector<int>& counts = request.nodes_per_stage;
  if (counts.size() != static_cast<size_t>(request.stage_count()))
    throw ConfigError("nodes_per_stage: found {} numbers, expected one for each of {} stages", counts.size(),
                      request.stage_count());
  int64_t sum = 0;
  for (const int count : counts) {
    if (count < 1) throw ConfigError("nodes_per_stage: found {}, expected at least 1", count);
    sum += count;
  }
  if (sum != request.network.size())
    throw ConfigError("nodes_per_stage: {} nodes in all, expected the network's {}", sum, request.network.size());
}

void check_start(const PlanRequest& request, const Plan& start) {
  const bool fits =
      request.stages.empty() ? start.stage_count() == request.stage_count() : start.stages == request.stages;
  if (start.node_names.size() != request.network.nodes.size() || !fits)
    throw ConfigError("the plan to begin from has {} nodes in {} stages of its own, expected the request's {} in {}",
                      start.node_names.size(), start.stages.size(), request.network.nodes.size(),
                      request.stage_count());
  if (!request.nodes_per_stage.empty() &&
      !std::ranges::equal(start.stages, request.nodes_per_stage, {},
                          [](const std::vector<int>& stage) { return static_cast<int>(stage.size()); }))
    throw ConfigError("the plan to begin from has other numbers of nodes in its stages than nodes_per_stage says");
  if (start.microbatches.size() != static_cast<size_t>(request.microbatches))
    throw ConfigError("the plan to begin from has {} microbatches, expected {}", start.microbatches.size(),
                      request.microbatches);
  for (const PlannedMicrobatch& microbatch : start.microbatches)
    if (std::ssize(microbatch.visits) != path_length(request))
      throw ConfigError("the plan to begin from has paths of {} visits, expected {}", microbatch.visits.size(),
                        path_length(request));
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

int64_t evaluations_of(const PlanRequest& request, double visits) {
  const double nodes = request.network.size();
  const double norms = request.workload.exchange_norm ? nodes * nodes : 0;
  const double each =
      static_cast<double>(request.microbatches) * std::max(1, path_length(request)) + norms * kVisitsPerNorm;
  return std::max(int64_t{1}, static_cast<int64_t>(visits / std::max(1.0, each)));
}

std::vector<int> split_evenly(int count, int stages) {
  std::vector<int> counts;
  for (int s = 0; s < stages; ++s) counts.push_back(count / stages + (s < count % stages ? 1 : 0));
  return counts;
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

std::optional<PlanResult> check_request(const PlanRequest& request) {
  if (auto infeasible = check_unskipped_request(request)) return infeasible;
  return check_path_length(request);
}

std::optional<PlanResult> check_path_length(const PlanRequest& request) {
  const int length = path_length(request), stages = request.stage_count();
  if (length < 1)
    return PlanResult{.rule = kPathStagesRule,
                      .why = fmt::format("a skip ratio of {} leaves {} of {} stages to visit, at least 1 is needed",
                                         request.rules.skip_ratio, length, stages)};
  const int least = shortest_path_length(stages, request.microbatches);
  if (length >= least) return std::nullopt;
  const std::string most =
      least == stages ? "--skip 0" : fmt::format("a --skip of at most {}/{}", stages - least, stages);
  const std::string more =
      length < 2 ? "" : fmt::format(" or more --microbatches, at least {} in all", divide_up(stages - 1, length - 1));
  return PlanResult{.rule = kExposureRule,
                    .why = fmt::format("paths of {} of {} stages for {} microbatches leave out some stage, which would "
                                       "never be trained: expected {}{}",
                                       length, stages, request.microbatches, most, more)};
}

std::optional<PlanResult> check_unskipped_request(const PlanRequest& request) {
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
    return PlanResult{.rule = kStageNodesRule,
                      .why = fmt::format("{} stages need at least as many nodes, found {}", stages, nodes)};
  } else if (!request.nodes_per_stage.empty()) {
    check_nodes_per_stage(request);
  }
  if (request.start) check_start(request, *request.start);
  return check_capacity(request);
}

int path_length(const PlanRequest& request) {
  return request.stage_count() - static_cast<int>(std::lround(request.rules.skip_ratio * request.stage_count()));
}

int shortest_path_length(int stages, int microbatches) { return 1 + divide_up(stages - 1, std::max(1, microbatches)); }

void skip_less_if_needed(PlanRequest& request) {
  const int stages = request.stage_count();
  const int least = shortest_path_length(stages, request.microbatches);
  if (path_length(request) < least) request.rules.skip_ratio = static_cast<double>(stages - least) / stages;
}

Plan begin_plan(const PlanRequest& request, const std::string& method, const PlanRules& rules, int length) {
  Plan plan;
  plan.method = method;
  plan.seed = request.seed;
  plan.rules = rules;
  plan.workload = request.workload;
  for (const NetworkNode& node : request.network.nodes) plan.node_names.push_back(node.name);
  plan.stages = request.stages;
  plan.microbatches.resize(static_cast<size_t>(request.microbatches));
  for (PlannedMicrobatch& microbatch : plan.microbatches) microbatch.visits.resize(static_cast<size_t>(length));
  assign_priorities(plan);
  (void)assign_slots(request, plan);  // finish_plan judges
  return plan;
}

PlanResult finish_plan(const PlanRequest& request, Plan plan) {
  if (auto misfit = check_placement(request, plan.stages)) return *std::move(misfit);
  Simulator simulator(request.network);
  if (complete_plan(plan, simulator)) return {.plan = std::move(plan)};
  return {.rule = kSlotsRule,
          .why = fmt::format("every candidate deadlocks on full slots, the best with {}; more slots, fewer swaps or "
                             "fewer microbatches are needed",
                             first_line(simulator.describe_deadlock()))};
}

Plan widen(const Plan& plan, const std::vector<int>& nodes, const Network& network) {
  Plan wide = plan;
  wide.node_names.clear();
  wide.node_slots.clear();
  for (const NetworkNode& node : network.nodes) {
    wide.node_names.push_back(node.name);
    wide.node_slots.push_back(node.slots);
  }
  wide.predicted.busy_share.assign(network.nodes.size(), 0);
  for (size_t i = 0; i < nodes.size(); ++i) {
    const auto node = static_cast<size_t>(nodes[i]);
    wide.node_slots[node] = plan.node_slots[i];
    if (i < plan.predicted.busy_share.size()) wide.predicted.busy_share[node] = plan.predicted.busy_share[i];
  }
  for (std::vector<int>& stage : wide.stages)
    for (int& node : stage) node = nodes[static_cast<size_t>(node)];
  for (PlannedMicrobatch& microbatch : wide.microbatches)
    for (PlannedVisit& visit : microbatch.visits) visit.node = nodes[static_cast<size_t>(visit.node)];
  return wide;
}

void leave_out_idle(const PlanRequest& request, Plan& plan, const std::vector<int>& keep) {
  std::vector<bool> stays(plan.node_names.size(), false);
  for (const int node : keep) stays[static_cast<size_t>(node)] = true;
  for (const PlannedMicrobatch& microbatch : plan.microbatches)
    for (const PlannedVisit& visit : microbatch.visits) stays[static_cast<size_t>(visit.node)] = true;
  std::vector<int> idle = used_nodes(plan);
  std::erase_if(idle, [&](int node) { return stays[static_cast<size_t>(node)]; });
  if (idle.empty()) return;
  Simulator simulator(request.network);
  const auto leave = [&](std::span<const int> nodes) {
    Plan without = plan;
    for (std::vector<int>& stage : without.stages)
      std::erase_if(stage, [&](int node) { return std::ranges::find(nodes, node) != nodes.end(); });
    if (!assign_slots(request, without) || !complete_plan(without, simulator) ||
        without.predicted.iteration_s > plan.predicted.iteration_s)
      return false;
    plan = std::move(without);
    return true;
  };
  // One may pass on others' sums of gradients over quicker links.
  if (leave(idle)) return;
  for (const int& node : idle) leave({&node, 1});
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
