#include "tests/schedule/random_plans.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "base/random.h"
#include "schedule/machine/ranking.h"
#include "schedule/search/planning.h"

namespace skippipe::test {

std::vector<uint64_t> seeds(uint64_t count) {
  if (const char* only = std::getenv("SKIPPIPE_SEED")) return {std::strtoull(only, nullptr, 10)};
  std::vector<uint64_t> all(count);
  for (uint64_t i = 0; i < count; ++i) all[i] = i;
  return all;
}

std::string replay_command(uint64_t seed) {
  const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
  return fmt::format("replay: SKIPPIPE_SEED={} test_schedule --gtest_filter={}.{}", seed, test->test_suite_name(),
                     test->name());
}

Network random_network(uint64_t seed, int nodes) {
  Random random(seed, {1});
  Network network;
  for (int i = 0; i < nodes; ++i) {
    NetworkNode& node = network.nodes.emplace_back();
    node.name = fmt::format("node-{}", i);
    node.forward_s = random.uniform(0.05, 0.5);
    node.step_s_per_byte = random.uniform(0, 1e-8);
    node.slots = 1 + static_cast<int>(random.below(4));
  }
  for (int i = 0; i < nodes * nodes; ++i)
    network.links.push_back({.latency_s = random.uniform(0, 0.3),
                             .bandwidth_bytes_per_s = random.below(4) == 0 ? 0 : random.uniform(1e6, 1e8),
                             .overhead_s = random.uniform(0, 0.01)});
  return network;
}

namespace {

// All but the first, in random order.
std::vector<int> shuffled_stages(int stages, Random& random) {
  std::vector<int> order(static_cast<size_t>(stages - 1));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i) + 1;
  random.shuffle(order);
  return order;
}

// Stages behind the first for one path: a random subset with those that the path takes from `unvisited`, ascending,
// then neighbours exchanged here and there. Swaps go one stage back at most, as C3's default allows; a path that got
// more of them is sorted again.
std::vector<int> random_path(int stages, int length, int max_swaps, std::vector<int>& unvisited, Random& random) {
  std::vector<int> path = shuffled_stages(stages, random);
  const size_t taken = std::min(unvisited.size(), static_cast<size_t>(length - 1));
  const std::vector<int> first(unvisited.end() - static_cast<std::ptrdiff_t>(taken), unvisited.end());
  unvisited.resize(unvisited.size() - taken);
  std::ranges::stable_partition(path, [&](int stage) { return std::ranges::find(first, stage) != first.end(); });
  path.resize(static_cast<size_t>(length - 1));
  std::sort(path.begin(), path.end());
  int swaps = 0;
  for (size_t i = 0; i + 1 < path.size() && swaps < max_swaps; ++i) {
    if (path[i + 1] != path[i] + 1 || random.below(2) == 0) continue;
    std::swap(path[i], path[i + 1]);
    ++swaps;
    ++i;
  }
  return path;
}

}  // namespace

std::optional<Case> random_case(uint64_t seed) {
  Random random(seed, {2});
  const int nodes = 1 + static_cast<int>(random.below(12));
  const int stages = 1 + static_cast<int>(random.below(static_cast<uint64_t>(nodes)));
  const int length = std::max(std::min(2, stages), 1 + static_cast<int>(random.below(static_cast<uint64_t>(stages))));
  Case result{.network = random_network(seed, nodes), .plan = {}};
  Plan& plan = result.plan;
  plan.method = "random";
  plan.rules = {.skip_ratio = 1.0 - static_cast<double>(length) / stages, .max_jump = stages, .equal_exposure = false};
  plan.workload.samples = 1 + static_cast<int>(random.below(3));
  plan.workload.activation_bytes = static_cast<int64_t>(random.below(1 << 22));
  plan.workload.exchange_norm = random.below(2) == 0;
  for (const NetworkNode& node : result.network.nodes) {
    plan.node_names.push_back(node.name);
    plan.node_slots.push_back(node.slots);
  }
  plan.stages.resize(static_cast<size_t>(stages));
  for (int node = 0; node < nodes; ++node)
    plan.stages[node < stages ? static_cast<size_t>(node) : random.below(plan.stages.size())].push_back(node);
  for (int s = 0; s < stages; ++s) {
    plan.workload.stage_layers.push_back(1 + static_cast<int>(random.below(3)));
    plan.workload.stage_gradient_bytes.push_back(static_cast<int64_t>(random.below(1 << 24)));
  }
  // Enough for every stage to be in a path (C4).
  plan.microbatches.resize(
      std::max<size_t>(1 + random.below(16), length > 1 ? static_cast<size_t>(divide_up(stages - 1, length - 1)) : 1));
  std::vector<int> unvisited = shuffled_stages(stages, random);
  assign_priorities(plan);
  for (PlannedMicrobatch& microbatch : plan.microbatches) {
    std::vector<int> path = random_path(stages, length, plan.rules.max_swaps, unvisited, random);
    path.insert(path.begin(), 0);
    for (const int stage : path) {
      const std::vector<int>& replicas = plan.stages[static_cast<size_t>(stage)];
      microbatch.visits.push_back({.node = replicas[random.below(replicas.size())]});
    }
  }
  assign_priorities(plan);
  Simulator simulator(result.network);
  if (!complete_plan(plan, simulator)) return std::nullopt;
  return result;
}

void expect_nobody_idle(const Plan& plan, const Network& network) {
  std::vector<int> visits(plan.node_names.size(), 0);
  for (const PlannedMicrobatch& microbatch : plan.microbatches)
    for (const PlannedVisit& visit : microbatch.visits) ++visits[static_cast<size_t>(visit.node)];
  Simulator simulator(network);
  for (const int node : used_nodes(plan)) {
    if (visits[static_cast<size_t>(node)] > 0) continue;
    Plan without = plan;
    for (std::vector<int>& stage : without.stages) std::erase(stage, node);
    ASSERT_TRUE(complete_plan(without, simulator));
    EXPECT_GT(without.predicted.iteration_s, plan.predicted.iteration_s)
        << plan.node_names[static_cast<size_t>(node)] << " is idle";
  }
}

Case small_case() {
  Case result{.network = random_network(7, 4), .plan = {}};
  Plan& plan = result.plan;
  plan.method = "small";
  plan.workload = {.activation_bytes = 1000, .stage_layers = {2, 2}, .stage_gradient_bytes = {4000, 4000}};
  for (NetworkNode& node : result.network.nodes) {
    node.slots = 2;
    plan.node_names.push_back(node.name);
    plan.node_slots.push_back(node.slots);
  }
  plan.stages = {{0, 1}, {2, 3}};
  for (int m = 0; m < 4; ++m) plan.microbatches.push_back({.visits = {{.node = m % 2}, {.node = 2 + m % 2}}});
  assign_priorities(plan);
  Simulator simulator(result.network);
  SKP_CHECK(complete_plan(plan, simulator));
  return result;
}

}  // namespace skippipe::test
