// The floor under plans: never above the best of all plans of small cases nor above what planners find, and reached
// where one limit alone decides.
#include "schedule/search/lower_bound.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "schedule/machine/ranking.h"
#include "schedule/machine/simulator.h"
#include "schedule/plan/network_generator.h"
#include "schedule/plan/validator.h"
#include "schedule/search/capacity.h"
#include "tests/schedule/all_plans.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using testing::HasSubstr;

// Planners search for each of them.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kPlannedSeeds = 20;
#else
constexpr uint64_t kPlannedSeeds = 100;
#endif

LowerBound for_any_stages(PlanRequest request) {
  request.stages.clear();
  return lower_bound(request);
}

TEST(LowerBound, IsNeverAboveTheBestOfAllPlans) {
  int checked = 0;
  for (const uint64_t seed : test::seeds(400)) {
    SCOPED_TRACE(test::replay_command(seed));
    const PlanRequest request = test::tiny_request(seed);
    test::AllPlans all(request);
    if (all.count() > 2500) continue;
    ++checked;
    const double best_s = all.best();
    const LowerBound bound = lower_bound(request, request.stages);
    EXPECT_LE(bound.seconds, best_s) << bound.what;
    EXPECT_GT(bound.seconds, 0.0);
    const LowerBound any = for_any_stages(request);
    EXPECT_LE(any.seconds, best_s) << any.what;
  }
  if (!std::getenv("SKIPPIPE_SEED")) {
    EXPECT_GT(checked, 250);
  }
}

// Wherever nodes go, however many a stage has, whoever is left out.
TEST(LowerBound, IsNeverAboveTheBestOfAllPlacements) {
  int checked = 0;
  for (const uint64_t seed : test::seeds(300)) {
    SCOPED_TRACE(test::replay_command(seed));
    PlanRequest request = test::tiny_request(seed);
    Random random(seed, {23});
    if (random.below(2) == 0) {  // slots from memory
      for (size_t s = 0; s < request.stages.size(); ++s) {
        request.workload.stage_state_bytes.push_back(static_cast<int64_t>(random.below(100)));
        request.workload.stage_slot_bytes.push_back(1 + static_cast<int64_t>(random.below(100)));
      }
      for (NetworkNode& node : request.network.nodes) {
        node.slots_from_memory = random.below(2) == 0;
        node.memory_bytes = 300 + static_cast<int64_t>(random.below(400));
      }
    }
    request.nodes_per_stage.clear();
    const double plans = test::AllPlans(request).count();
    request.stages.clear();
    const LowerBound any = lower_bound(request);
    const auto placements = test::all_placements(request);
    if (plans * static_cast<double>(placements.size()) > 5000) continue;
    ++checked;
    for (const auto& stages : placements) {
      request.stages = stages;
      EXPECT_LE(any.seconds, test::AllPlans(request).best()) << any.what;
    }
  }
  if (!std::getenv("SKIPPIPE_SEED")) {
    EXPECT_GT(checked, 100);
  }
}

// What follows the last backward pass apart, the shortest way is all that a single microbatch needs.
TEST(LowerBound, IsTheTimeOfASingleMicrobatch) {
  for (const uint64_t seed : test::seeds(200)) {
    SCOPED_TRACE(test::replay_command(seed));
    PlanRequest request = test::tiny_request(seed);
    request.microbatches = 1;
    request.workload.exchange_norm = false;
    request.workload.stage_gradient_bytes.assign(request.stages.size(), 0);
    const double best_s = test::AllPlans(request).best();
    const LowerBound bound = lower_bound(request, request.stages);
    if (best_s == INFINITY)
      EXPECT_EQ(bound.seconds, INFINITY) << bound.what;
    else
      EXPECT_NEAR(bound.seconds, best_s, 1e-9) << bound.what;
  }
}

TEST(LowerBound, IsNeverAboveWhatPlannersFind) {
  double closest = INFINITY;
  for (const uint64_t seed : test::seeds(kPlannedSeeds)) {
    SCOPED_TRACE(test::replay_command(seed));
    Random random(seed, {22});
    const int stages = 2 + static_cast<int>(random.below(5));
    PlanRequest request;
    request.network = test::random_network(seed, stages + static_cast<int>(random.below(10)));
    for (NetworkNode& node : request.network.nodes)
      if (random.below(4) == 0) node.uplink_bytes_per_s = random.uniform(1e6, 1e7);
    request.rules.skip_ratio = 1.0 / 3;
    request.rules.equal_exposure = random.below(3) > 0;
    request.rules.equal_data = random.below(3) == 0;
    request.workload.activation_bytes = static_cast<int64_t>(random.below(1 << 22));
    request.workload.stage_layers.assign(static_cast<size_t>(stages), 2);
    request.workload.stage_gradient_bytes.assign(static_cast<size_t>(stages),
                                                 static_cast<int64_t>(random.below(1 << 22)));
    request.workload.exchange_norm = random.below(2) == 0;
    request.microbatches = 1 + static_cast<int>(random.below(24));
    request.seed = seed;
    request.budget.evaluations = 100;
    for (const char* method : {"full", "joint"}) {
      const PlanResult result = make_planner(method)->plan(request);
      if (!result.plan) continue;
      PlanRequest asked = request;
      asked.rules = result.plan->rules;
      const double found_s = result.plan->predicted.iteration_s;
      const LowerBound bound = lower_bound(asked, result.plan->stages);
      EXPECT_LE(bound.seconds, found_s) << method << ": " << bound.what;
      EXPECT_LE(lower_bound(asked).seconds, found_s) << method << ": " << lower_bound(asked).what;
      closest = std::min(closest, found_s / bound.seconds);
    }
  }
  if (!std::getenv("SKIPPIPE_SEED")) {
    EXPECT_LT(closest, 1.1) << "a floor so low is of no use";
  }
}

// A row of stages of one node each, of a second forward and 1.5 backward, where nothing else takes time.
PlanRequest row(int stages, int microbatches, int slots) {
  PlanRequest request;
  for (int s = 0; s < stages; ++s) {
    NetworkNode& node = request.network.nodes.emplace_back();
    node.name = fmt::format("node-{}", s);
    node.forward_s = 1;
    node.loss_s = 0;
    node.slots = slots;
    request.stages.push_back({s});
  }
  request.network.links.resize(static_cast<size_t>(stages * stages));
  request.workload.stage_layers.assign(static_cast<size_t>(stages), 1);
  request.workload.stage_gradient_bytes.assign(static_cast<size_t>(stages), 0);
  request.workload.exchange_norm = false;
  request.microbatches = microbatches;
  return request;
}

void expect_reached(const PlanRequest& request, double seconds, const std::string& part) {
  const LowerBound bound = lower_bound(request, request.stages);
  EXPECT_NEAR(bound.seconds, seconds, 1e-9) << bound.what;
  EXPECT_NEAR(test::AllPlans(request).best(), seconds, 1e-9);
  EXPECT_THAT(bound.what, HasSubstr(part));
}

TEST(LowerBound, IsReachedBySlots) {
  PlanRequest request = row(3, 4, 1);
  for (Link& link : request.network.links) link = {.latency_s = 0.25, .overhead_s = 0.25};
  request.network.nodes[0].loss_s = 0.5;
  // Three forward, loss, three backward, six messages.
  expect_reached(request, 4 * (3 + 0.5 + 4.5 + 6 * 0.5), "data nodes: 4 microbatches on 1 node with 1 slots");
}

TEST(LowerBound, IsReachedByWork) {
  PlanRequest request = row(3, 6, 6);
  request.network.nodes[1].forward_s = 4;
  request.network.nodes[2].forward_s = 0;
  request.network.nodes[0].step_s_per_byte = 1;
  request.workload.stage_gradient_bytes[0] = 7;
  // The first forward on node 0, then node 1 works without a pause, then the last backward and step on node 0.
  expect_reached(request, 1 + 6 * 10 + 1.5 + 7, "stage 1: 6 visits on 1 node with 6 slots, of which 'node-1' takes 6");
}

TEST(LowerBound, IsReachedByTheUplink) {
  PlanRequest request = row(2, 5, 5);
  for (NetworkNode& node : request.network.nodes) node.forward_s = 0;
  request.network.nodes[0].uplink_bytes_per_s = 50;
  request.network.link(0, 1).latency_s = 0.125;
  request.network.link(1, 0).latency_s = 0.25;
  request.workload.activation_bytes = 100;
  // Five forward and five gradients of 2 s each; the last gradient's way, and the way back.
  expect_reached(request, 20 + 0.125 + 0.25, "4 s of its uplink each");
}

TEST(LowerBound, IsReachedByTheSumOfGradients) {
  PlanRequest request = row(1, 2, 2);
  request.network.nodes.push_back(request.network.nodes[0]);
  request.network.links.assign(4, {.latency_s = 0.5, .bandwidth_bytes_per_s = 200});
  request.stages = {{0, 1}};
  request.workload.stage_gradient_bytes = {200};
  for (NetworkNode& node : request.network.nodes) node.step_s_per_byte = 0.01;
  request.workload.exchange_norm = true;
  // A microbatch each; two shards of half a second of link, one after the other; 64 bytes of norm; the step.
  expect_reached(request, 2.5 + 2 * (0.5 + 0.5) + (0.5 + 64.0 / 200) + 2, "data nodes: 2 microbatches on 2 nodes");
}

TEST(LowerBound, SwapsShortenTheWay) {
  PlanRequest request = row(4, 1, 1);
  for (Link& link : request.network.links) link.latency_s = 10;
  for (const auto& [a, b] : {std::pair(0, 2), {2, 1}, {1, 3}, {3, 0}})
    request.network.link(a, b).latency_s = request.network.link(b, a).latency_s = 1;
  expect_reached(request, 10 + 8, "data nodes");
  request.rules.max_swaps = 0;
  EXPECT_NEAR(lower_bound(request, request.stages).seconds, 10 + 2 * (10 + 1 + 10 + 1), 1e-9);
}

TEST(LowerBound, SaysWhereThereIsNoPlan) {
  PlanRequest request = row(6, 3, 2);
  request.rules = {.skip_ratio = 0.5, .max_jump = 1};  // stages 4 and 5 are out of reach
  const LowerBound bound = lower_bound(request, request.stages);
  EXPECT_EQ(bound.seconds, INFINITY);
  EXPECT_THAT(bound.what, HasSubstr("can't serve them"));
  request.rules.skip_ratio = 1;
  EXPECT_EQ(lower_bound(request, request.stages).seconds, INFINITY);
  // Two visits each reach all, but there are four of them for five stages.
  request.rules = {.skip_ratio = 0.5, .equal_exposure = false};
  EXPECT_LT(lower_bound(request, request.stages).seconds, INFINITY);
  request.microbatches = 2;
  EXPECT_EQ(lower_bound(request, request.stages).what, "paths that leave a stage out");
  EXPECT_EQ(for_any_stages(request).seconds, INFINITY);
}

TEST(LowerBound, KnowsSlotsThatFollowFromMemory) {
  PlanRequest request = row(2, 4, 3);
  request.workload.stage_state_bytes = {400, 400};
  request.workload.stage_slot_bytes = {100, 100};
  request.network.nodes[0].slots_from_memory = true;
  request.network.nodes[0].memory_bytes = 800;  // of which a stage may take 600
  for (Link& link : request.network.links) link.latency_s = 2;
  EXPECT_NEAR(lower_bound(request, request.stages).seconds, 2 * 13 + 2.5 / 2, 1e-9)
      << "two slots: two rounds, one slot a forward pass later and one a backward pass earlier";
  request.network.nodes[0].memory_bytes = 700;
  EXPECT_NEAR(lower_bound(request, request.stages).seconds, 4 * 13, 1e-9) << "one slot";
}

// Those nearest to each other can't serve all: a floor that looks at one data node at a time says 16.9 s.
TEST(LowerBound, NearNodesServeOnce) {
  PlanRequest request;
  request.network = load_network(SKIPPIPE_SOURCE_DIR "/examples/published-20-nodes.json");
  request.rules.skip_ratio = 1.0 / 3;
  request.workload.stage_layers.assign(6, 1);
  request.workload.stage_gradient_bytes.assign(6, 0);
  request.workload.exchange_norm = false;
  request.nodes_per_stage = {5, 3, 3, 3, 3, 3};
  request.microbatches = 30;
  const LowerBound bound = lower_bound(request);
  EXPECT_GT(bound.seconds, 18.1);
  EXPECT_LT(bound.seconds, 19.46) << "what the prices can reach at most, their problem solved exactly";
  EXPECT_THAT(bound.what, HasSubstr("slots of all nodes together"));
  EXPECT_LT(quick_lower_bound(request).seconds, 17);
}

// Rules that allow more than is tracked still end, in a bound that is no higher.
TEST(LowerBound, WideRulesAreRelaxed) {
  const PlanRequest request = test::tiny_request(3);
  PlanRequest wide = request;
  wide.network = generate_network({.nodes = 24, .clusters = 3, .spread = 1.5});
  wide.stages.clear();
  for (int s = 0; s < 12; ++s) wide.stages.push_back({2 * s, 2 * s + 1});
  wide.workload.stage_layers.assign(12, 1);
  wide.workload.stage_gradient_bytes.assign(12, 1000);
  wide.rules = {.skip_ratio = 0.5};
  const double narrow_s = lower_bound(wide, wide.stages).seconds;
  wide.rules = {.skip_ratio = 0.5, .max_swaps = 100, .max_swap_distance = 100, .max_jump = 100};
  const double wide_s = lower_bound(wide, wide.stages).seconds;
  EXPECT_GT(wide_s, 0);
  EXPECT_LE(wide_s, narrow_s);
}

}  // namespace
}  // namespace skippipe
