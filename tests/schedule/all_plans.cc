#include "tests/schedule/all_plans.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <ranges>

#include "base/random.h"
#include "schedule/machine/ranking.h"
#include "schedule/search/capacity.h"
#include "tests/schedule/random_plans.h"

namespace skippipe::test {
namespace {

// All legal orders of stages, straight from the text of C2 and C3.
void add_orders(const PlanRules& rules, int stages, size_t length, std::vector<int>& order,
                std::vector<std::vector<int>>& all) {
  if (order.size() == length) {
    all.push_back(order);
    return;
  }
  int furthest = 0, behind = 0;
  for (const int stage : order) {
    behind += stage < furthest;
    furthest = std::max(furthest, stage);
  }
  for (int stage = 1; stage < stages; ++stage) {
    if (std::ranges::find(order, stage) != order.end() || stage > furthest + rules.max_jump) continue;
    if (stage < furthest && (behind == rules.max_swaps || furthest - stage > rules.max_swap_distance)) continue;
    order.push_back(stage);
    add_orders(rules, stages, length, order, all);
    order.pop_back();
  }
}

std::vector<std::vector<int>> legal_paths(const PlanRequest& request) {
  const auto length = static_cast<size_t>(
      request.stage_count() - static_cast<int>(std::lround(request.rules.skip_ratio * request.stage_count())));
  std::vector<std::vector<int>> orders, paths;
  std::vector<int> order = {0};
  add_orders(request.rules, request.stage_count(), length, order, orders);
  for (const std::vector<int>& stages : orders) {
    std::vector<std::vector<int>> ways = {{}};
    for (const int stage : stages) {
      std::vector<std::vector<int>> longer;
      for (const std::vector<int>& way : ways)
        for (const int node : request.stages[static_cast<size_t>(stage)]) {
          longer.push_back(way);
          longer.back().push_back(node);
        }
      ways = std::move(longer);
    }
    paths.insert(paths.end(), ways.begin(), ways.end());
  }
  return paths;
}

}  // namespace

AllPlans::AllPlans(const PlanRequest& request)
    : request_(request), paths_(legal_paths(request)), simulator_(request.network) {
  plan_.rules = request.rules;
  plan_.workload = request.workload;
  plan_.stages = request.stages;
  for (const NetworkNode& node : request.network.nodes) plan_.node_names.push_back(node.name);
  EXPECT_TRUE(assign_slots(request, plan_));
}

double AllPlans::count() const { return std::pow(static_cast<double>(paths_.size()), request_.microbatches); }

double AllPlans::best() {
  const auto microbatches = static_cast<size_t>(request_.microbatches);
  std::vector<size_t> chosen(microbatches, 0);
  double best = INFINITY;
  for (;;) {
    plan_.microbatches.assign(microbatches, {});
    for (size_t m = 0; m < microbatches; ++m)
      for (const int node : paths_[chosen[m]]) plan_.microbatches[m].visits.push_back({.node = node});
    assign_priorities(plan_);
    best = std::min(best, seconds());
    size_t m = 0;
    while (m < microbatches && ++chosen[m] == paths_.size()) chosen[m++] = 0;
    if (m == microbatches) return best;
  }
}

double AllPlans::seconds() {
  if (!keeps_exposure() || !shares_data()) return INFINITY;
  const Simulation& found = simulator_.run(plan_, {.admission = Admission::kAnySlot});
  return found.deadlock ? INFINITY : found.iteration_s;
}

bool AllPlans::keeps_exposure() const {
  if (plan_.stage_count() < 2) return true;
  const std::vector<int> stage_of = plan_.stage_of_nodes();
  std::vector<int> served(plan_.stages.size(), 0);
  for (const PlannedMicrobatch& microbatch : plan_.microbatches)
    for (const PlannedVisit& visit : microbatch.visits)
      ++served[static_cast<size_t>(stage_of[static_cast<size_t>(visit.node)])];
  const auto [low, high] = std::minmax_element(served.begin() + 1, served.end());
  return *low > 0 && (!request_.rules.equal_exposure || *high - *low <= 1);
}

bool AllPlans::shares_data() const {
  if (!request_.rules.equal_data) return true;
  std::map<int, int> started;
  for (const int node : plan_.stages[0]) started[node] = 0;
  for (const PlannedMicrobatch& microbatch : plan_.microbatches) ++started[microbatch.data_node()];
  const auto [low, high] = std::ranges::minmax(std::views::values(started));
  return high - low <= 1;
}

std::vector<std::vector<std::vector<int>>> all_placements(const PlanRequest& request) {
  const auto stages = static_cast<size_t>(request.stage_count());
  std::vector<std::vector<std::vector<int>>> placements;
  std::vector<size_t> stage_of(request.network.nodes.size(), 0);  // `stages`: left out
  for (;;) {
    std::vector<std::vector<int>> placement(stages);
    for (size_t node = 0; node < stage_of.size(); ++node)
      if (stage_of[node] < stages) placement[stage_of[node]].push_back(static_cast<int>(node));
    bool fits = true;
    for (size_t s = 0; s < stages; ++s) {
      const bool size_fits = request.nodes_per_stage.empty() ? !placement[s].empty()
                                                             : std::ssize(placement[s]) == request.nodes_per_stage[s];
      fits = fits && size_fits && count_misfits(request, placement[s], static_cast<int>(s)) == 0;
    }
    if (fits) placements.push_back(std::move(placement));
    size_t node = 0;
    while (node < stage_of.size() && ++stage_of[node] > stages) stage_of[node++] = 0;
    if (node == stage_of.size()) return placements;
  }
}

// 1 to 4 stages of 1 or 2 nodes that differ in all that a network can say, under random rules.
PlanRequest tiny_request(uint64_t seed) {
  Random random(seed, {21});
  PlanRequest request;
  const int stages = 1 + static_cast<int>(random.below(4));
  int nodes = 0;
  for (int s = 0; s < stages; ++s) {
    std::vector<int>& stage = request.stages.emplace_back(1, nodes++);
    if (random.below(2) == 0) stage.push_back(nodes++);
    request.workload.stage_layers.push_back(1 + static_cast<int>(random.below(3)));
    request.workload.stage_gradient_bytes.push_back(random.below(2) == 0 ? 0
                                                                         : static_cast<int64_t>(random.below(1 << 24)));
  }
  request.network = random_network(seed, nodes);
  for (NetworkNode& node : request.network.nodes) {
    node.backward_over_forward = random.uniform(0.5, 2);
    if (random.below(3) == 0) node.loss_s = random.uniform(0, 0.5);
    if (random.below(3) == 0) node.uplink_bytes_per_s = random.uniform(1e5, 1e7);
  }
  request.workload.samples = 1 + static_cast<int>(random.below(2));
  request.workload.activation_bytes = static_cast<int64_t>(random.below(1 << 22));
  request.workload.exchange_norm = random.below(2) == 0;
  const int length = 1 + static_cast<int>(random.below(static_cast<uint64_t>(stages)));
  request.rules = {.skip_ratio = 1.0 - static_cast<double>(length) / stages,
                   .max_swaps = static_cast<int>(random.below(3)),
                   .max_swap_distance = 1 + static_cast<int>(random.below(2)),
                   .max_jump = 1 + static_cast<int>(random.below(3)),
                   .equal_exposure = random.below(2) == 0};
  request.microbatches = 1 + static_cast<int>(random.below(4));
  request.rules.equal_data = random.below(3) == 0;
  request.nodes_per_stage.clear();
  for (const std::vector<int>& stage : request.stages)
    request.nodes_per_stage.push_back(static_cast<int>(stage.size()));
  return request;
}

}  // namespace skippipe::test
