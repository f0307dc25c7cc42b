// DT-FM's placement: its parts against brute force, and what the whole must keep.
#include "schedule/search/dtfm_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "schedule/plan/rules.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using testing::HasSubstr;

CostMatrix random_costs(size_t rows, size_t columns, Random& random) {
  CostMatrix costs(rows, columns);
  for (size_t r = 0; r < rows; ++r)
    // Few values, so that some are equal.
    for (size_t c = 0; c < columns; ++c) costs(r, c) = static_cast<double>(random.below(20));
  return costs;
}

// The least dearest pair of all ways to deal rows to columns, each floor or ceil times.
double best_deal(const CostMatrix& costs, size_t row, std::vector<size_t>& dealt) {
  if (row == costs.rows()) {
    const auto [low, high] = std::minmax_element(dealt.begin(), dealt.end());
    return *high - *low <= 1 ? 0 : std::numeric_limits<double>::infinity();
  }
  double best = std::numeric_limits<double>::infinity();
  for (size_t column = 0; column < costs.columns(); ++column) {
    ++dealt[column];
    best = std::min(best, std::max(costs(row, column), best_deal(costs, row + 1, dealt)));
    --dealt[column];
  }
  return best;
}

TEST(BottleneckMatching, IsTheBestOfAll) {
  for (const uint64_t seed : test::seeds(300)) {
    SCOPED_TRACE(test::replay_command(seed));
    Random random(seed);
    const size_t rows = 1 + random.below(6), columns = 1 + random.below(5);
    const CostMatrix costs = random_costs(rows, columns, random);
    const Matching matching = match_bottleneck(costs);
    std::vector<size_t> dealt(columns, 0);
    EXPECT_EQ(matching.bottleneck, best_deal(costs, 0, dealt));
    double dearest = 0;
    for (size_t row = 0; row < rows; ++row) {
      const auto column = static_cast<size_t>(matching.column_of_row[row]);
      ++dealt[column];
      dearest = std::max(dearest, costs(row, column));
    }
    EXPECT_LE(dearest, matching.bottleneck);
    const auto [low, high] = std::minmax_element(dealt.begin(), dealt.end());
    EXPECT_LE(*high - *low, 1u);
  }
}

double tour_s(const std::vector<int>& order, const CostMatrix& links, const CostMatrix& places) {
  double sum = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const auto group = static_cast<size_t>(order[i]);
    sum += places(group, i) + links(group, static_cast<size_t>(order[(i + 1) % order.size()]));
  }
  return sum;
}

TEST(GroupOrder, IsTheBestOfAll) {
  for (const uint64_t seed : test::seeds(100)) {
    SCOPED_TRACE(test::replay_command(seed));
    Random random(seed);
    const size_t groups = 1 + random.below(6);
    const CostMatrix links = random_costs(groups, groups, random);
    CostMatrix places = random_costs(groups, groups, random);
    for (size_t g = 0; g < groups; ++g)
      for (size_t p = 0; p < groups; ++p)
        if (g != p && random.below(4) == 0) places(g, p) = std::numeric_limits<double>::infinity();
    std::vector<int> order(groups);
    std::iota(order.begin(), order.end(), 0);
    double best = tour_s(order, links, places);
    while (std::next_permutation(order.begin() + 1, order.end())) best = std::min(best, tour_s(order, links, places));
    const std::vector<int> found = order_groups(links, places);
    EXPECT_EQ(found[0], 0);
    EXPECT_DOUBLE_EQ(tour_s(found, links, places), best);
  }
}

TEST(GroupOrder, ManyGroupsAreOrderedBetterThanAtRandom) {
  Random random(1);
  const CostMatrix links = random_costs(30, 30, random);
  const CostMatrix places(30, 30);
  std::vector<int> order = order_groups(links, places);
  std::vector<int> given(30);
  std::iota(given.begin(), given.end(), 0);
  EXPECT_LT(tour_s(order, links, places), 0.6 * tour_s(given, links, places));
  std::sort(order.begin(), order.end());
  EXPECT_EQ(order, given);
}

PlanRequest make_request(uint64_t seed, std::vector<int> nodes_per_stage) {
  PlanRequest request;
  request.network = test::random_network(seed, std::accumulate(nodes_per_stage.begin(), nodes_per_stage.end(), 0));
  request.workload.activation_bytes = 1 << 20;
  request.workload.stage_layers.assign(nodes_per_stage.size(), 1);
  request.workload.stage_gradient_bytes.assign(nodes_per_stage.size(), 1 << 20);
  request.nodes_per_stage = std::move(nodes_per_stage);
  request.microbatches = 12;
  request.seed = seed;
  request.budget.evaluations = 200;
  return request;
}

TEST(Placement, KeepsSizesAndUsesEveryNodeOnce) {
  for (const uint64_t seed : test::seeds(10)) {
    SCOPED_TRACE(test::replay_command(seed));
    const PlanRequest request = make_request(seed, {4, 2, 3, 1, 2});
    BudgetMeter meter(request);
    const Placements placements = place_stages(request, meter);
    ASSERT_FALSE(placements.best_first.empty());
    for (size_t i = 0; i < placements.best_first.size(); ++i) {
      const Placement& placement = placements.best_first[i];
      std::set<int> used;
      for (size_t s = 0; s < 5; ++s) {
        EXPECT_EQ(placement.stages[s].size(), static_cast<size_t>(request.nodes_per_stage[s]));
        used.insert(placement.stages[s].begin(), placement.stages[s].end());
      }
      EXPECT_EQ(used.size(), request.network.nodes.size());
      EXPECT_GE(placement.cost_s, placements.best_first[0].cost_s);
      // What a request with these stages costs.
      PlanRequest given = request;
      given.stages = placement.stages;
      EXPECT_DOUBLE_EQ(place_stages(given, meter).best_first[0].cost_s, placement.cost_s);
    }
  }
}

// All partitions of six nodes into stages of two.
TEST(Placement, IsTheBestOfAllSmallOnes) {
  for (const uint64_t seed : test::seeds(6)) {
    SCOPED_TRACE(test::replay_command(seed));
    PlanRequest request = make_request(seed, {2, 2, 2});
    request.workload.stage_layers = {2, 1, 3};
    BudgetMeter meter(request);
    const double found = place_stages(request, meter).best_first[0].cost_s;
    double best = std::numeric_limits<double>::infinity();
    std::vector<int> nodes = {0, 1, 2, 3, 4, 5};
    do {
      PlanRequest given = request;
      given.stages = {{nodes[0], nodes[1]}, {nodes[2], nodes[3]}, {nodes[4], nodes[5]}};
      best = std::min(best, place_stages(given, meter).best_first[0].cost_s);
    } while (std::next_permutation(nodes.begin(), nodes.end()));
    EXPECT_LE(found, best * 1.02);  // the order of stages is the cheapest tour's, not that of the least sum
    EXPECT_GE(found, best * (1 - 1e-12));
  }
}

// Two regions: within them messages are quick.
Network two_regions() {
  Network network;
  for (int i = 0; i < 8; ++i) {
    NetworkNode& node = network.nodes.emplace_back();
    node.name = fmt::format("node-{}", i);
    node.forward_s = 0.1;
  }
  for (int a = 0; a < 8; ++a)
    for (int b = 0; b < 8; ++b) network.links.push_back({.latency_s = a % 2 == b % 2 ? 0.01 : 1});
  return network;
}

TEST(Placement, KeepsReplicasNearEachOther) {
  PlanRequest request = make_request(1, {2, 2, 2, 2});
  request.network = two_regions();
  request.max_replica_delay_s = 0.1;
  BudgetMeter meter(request);
  const Placements placements = place_stages(request, meter);
  ASSERT_FALSE(placements.best_first.empty()) << placements.why.why;
  for (const std::vector<int>& stage : placements.best_first[0].stages) EXPECT_EQ(stage[0] % 2, stage[1] % 2);
  for (const std::string method : {"full", "random-skip", "skippipe-no-collision", "skippipe"})
    EXPECT_TRUE(make_planner(method)->plan(request).plan) << method;
}

TEST(Placement, SaysWhichReplicasAreTooFarApart) {
  PlanRequest request = make_request(1, {3, 5});
  request.network = two_regions();
  request.max_replica_delay_s = 0.1;
  for (const std::string method : {"full", "random-skip", "skippipe-no-collision", "skippipe"}) {
    const PlanResult result = make_planner(method)->plan(request);
    EXPECT_FALSE(result.plan);
    EXPECT_EQ(result.rule, kReplicaDelayRule);
    EXPECT_THAT(result.why, HasSubstr("takes 1.000 s"));
  }
  request.nodes_per_stage.clear();
  request.stages = {{0, 1}, {2, 4}};
  EXPECT_THAT(make_planner("full")->plan(request).why, HasSubstr("from node 'node-0' to 'node-1' of stage 0"));
}

// Slow links stay out of stages even where there is no gradient to reduce.
TEST(Placement, WithoutGradientsMessagesStandInForThem) {
  PlanRequest request = make_request(1, {4, 4});
  request.network = two_regions();
  request.workload.stage_gradient_bytes = {0, 0};
  BudgetMeter meter(request);
  // A stage in both regions costs a slow message; stages of one region each, a slow hop for every microbatch.
  const double mixed_s = place_stages(request, meter).best_first[0].cost_s;
  request.stages = {{0, 2, 4, 6}, {1, 3, 5, 7}};
  const double apart_s = place_stages(request, meter).best_first[0].cost_s;
  EXPECT_NEAR(apart_s - mixed_s, 4 * 0.99 - 0.99, 1e-9);
}

TEST(Placement, GivesSlowNodesToShallowStages) {
  PlanRequest request = make_request(1, {2, 2, 2});
  request.network = two_regions();
  request.network.nodes.resize(6);
  request.network.links.assign(36, Link{});
  request.network.nodes[4].forward_s = request.network.nodes[5].forward_s = 1;
  request.workload.stage_layers = {4, 1, 4};
  BudgetMeter meter(request);
  EXPECT_EQ(place_stages(request, meter).best_first[0].stages[1], (std::vector<int>{4, 5}));
}

}  // namespace
}  // namespace skippipe
