// The published path search: A* against all legal paths, conflict-based search and its planners against their rules.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "schedule/search/conflict_search.h"
#include "schedule/search/paths.h"
#include "schedule/search/planning.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using testing::HasSubstr;

PlanRequest make_request(uint64_t seed, std::vector<int> nodes_per_stage) {
  PlanRequest request;
  request.network = test::random_network(seed, std::accumulate(nodes_per_stage.begin(), nodes_per_stage.end(), 0));
  for (NetworkNode& node : request.network.nodes) node.slots = 3;
  request.rules.skip_ratio = 1.0 / 3;
  request.workload.activation_bytes = 1 << 20;
  request.workload.stage_layers.assign(nodes_per_stage.size(), 1);
  request.workload.stage_gradient_bytes.assign(nodes_per_stage.size(), 1 << 20);
  int node = 0;
  for (const int count : nodes_per_stage) {
    std::vector<int>& stage = request.stages.emplace_back(static_cast<size_t>(count));
    std::iota(stage.begin(), stage.end(), node);
    node += count;
  }
  request.microbatches = 12;
  request.seed = seed;
  request.budget.evaluations = 500;
  return request;
}

// Every path that C1-C3 and the limits allow: the least end and price.
class AllPaths {
 public:
  AllPaths(const PlanRequest& request, int length, const PathStart& start, const PathLimits& limits,
           const std::vector<double>& prices)
      : request_(request), length_(length), start_(start), limits_(limits), prices_(prices), search_(request, length) {
    nodes_.push_back(start.data_node);
    extend(0);
  }
  double best_s() const { return best_s_; }

 private:
  void extend(double price_s) {
    if (nodes_.size() == static_cast<size_t>(length_)) {
      if (disorder(stages_, request_.rules) == 0)
        best_s_ = std::min(best_s_, search_.time(start_, nodes_, limits_.busy).end_s + price_s);
      return;
    }
    for (size_t s = 1; s < request_.stages.size(); ++s) {
      if (contains(stages_, static_cast<int>(s)) || limits_.banned_stages[s]) continue;
      for (const int node : request_.stages[s]) {
        if (limits_.banned_nodes[static_cast<size_t>(node)]) continue;
        nodes_.push_back(node);
        stages_.push_back(static_cast<int>(s));
        extend(price_s + prices_[static_cast<size_t>(node)]);
        nodes_.pop_back();
        stages_.pop_back();
      }
    }
  }

  const PlanRequest& request_;
  int length_;
  PathStart start_;
  const PathLimits& limits_;
  const std::vector<double>& prices_;
  PathSearch search_;
  std::vector<int> nodes_;
  PathStages stages_;
  double best_s_ = std::numeric_limits<double>::infinity();
};

TEST(PathSearch, FindsTheBestOfAllLegalPaths) {
  int found = 0;
  for (const uint64_t seed : test::seeds(200)) {
    SCOPED_TRACE(test::replay_command(seed));
    Random random(seed, {7});
    PlanRequest request = make_request(seed, {2, 2, 1, 3, 2, 2});
    request.rules.max_swaps = static_cast<int>(random.below(3));
    request.rules.max_swap_distance = 1 + static_cast<int>(random.below(2));
    request.rules.max_jump = 1 + static_cast<int>(random.below(4));
    const int length = 1 + static_cast<int>(random.below(6));
    PathLimits limits{.banned_stages = std::vector<bool>(6), .banned_nodes = std::vector<bool>(12), .busy = {}};
    if (random.below(2) == 0) limits.banned_stages[1 + random.below(5)] = true;
    if (random.below(2) == 0) limits.banned_nodes[2 + random.below(10)] = true;
    std::vector<double> prices(12, 0);
    for (double& price : prices)
      if (random.below(3) == 0) price = random.uniform(0, 2);
    for (uint64_t i = random.below(12); i > 0; --i) {
      const double start_s = random.uniform(0, 5);
      limits.busy.push_back(
          {.node = static_cast<int>(random.below(12)), .start_s = start_s, .end_s = start_s + random.uniform(0, 1)});
    }
    const PathStart start{.data_node = 1, .at_s = random.uniform(0, 1)};
    const double best_s = AllPaths(request, length, start, limits, prices).best_s();
    const auto path = PathSearch(request, length).run(start, limits, prices);
    ASSERT_EQ(path.has_value(), std::isfinite(best_s));
    if (!path) continue;
    ++found;
    double with_prices_s = path->end_s;
    PathStages stages;
    for (size_t i = 1; i < path->nodes.size(); ++i) {
      with_prices_s += prices[static_cast<size_t>(path->nodes[i])];
      for (int s = 1; s < 6; ++s)
        if (std::ranges::count(request.stages[static_cast<size_t>(s)], path->nodes[i]) > 0) stages.push_back(s);
    }
    EXPECT_NEAR(with_prices_s, best_s, 1e-9);
    EXPECT_EQ(disorder(stages, request.rules), 0);
    for (const PathVisit& visit : path->visits)
      for (const PathVisit& other : limits.busy)
        EXPECT_TRUE(visit.node != other.node || visit.end_s <= other.start_s + 1e-12 || visit.start_s >= other.end_s);
  }
  EXPECT_GT(found, 100);
}

TEST(PathSearch, AFreePathTakesWhatTheSimulatorSays) {
  PlanRequest request = make_request(3, {1, 2, 2, 2});
  request.microbatches = 1;
  request.workload.stage_gradient_bytes.assign(4, 0);
  request.workload.exchange_norm = false;
  request.rules.skip_ratio = 0;  // alone, it trains every stage
  const PlanResult result = make_planner("skippipe")->plan(request);
  ASSERT_TRUE(result.plan);
  std::vector<int> nodes;
  for (const PlannedVisit& visit : result.plan->microbatches[0].visits) nodes.push_back(visit.node);
  const auto path = PathSearch(request, 4).run({.data_node = 0}, {}, {});
  ASSERT_TRUE(path);
  EXPECT_EQ(nodes, path->nodes);
  EXPECT_NEAR(path->end_s, result.plan->predicted.iteration_s, 1e-9);
}

class ConflictSearchTest : public testing::Test {
 protected:
  // Three data nodes with one path each, two stages of three like nodes; all want the nearest.
  PlanRequest request_ = [] {
    PlanRequest request = make_request(1, {3, 3, 3});
    for (NetworkNode& node : request.network.nodes) node.forward_s = 1;
    for (int a = 0; a < 9; ++a)
      for (int b = 0; b < 9; ++b) request.network.link(a, b) = {.latency_s = 0.1 + 0.001 * (a % 3 + b % 3)};
    return request;
  }();
  BudgetMeter meter_{request_};

  std::vector<PathAgent> agents(int in_flight) const {
    std::vector<PathAgent> agents;
    for (int d = 0; d < 3; ++d) agents.push_back({.start = {.data_node = d}, .wave = 0, .in_flight = in_flight});
    return agents;
  }
  static std::map<int, int> visits(const std::vector<TimedPath>& paths) {
    std::map<int, int> visits;
    for (const TimedPath& path : paths)
      for (const int node : path.nodes) ++visits[node];
    return visits;
  }
};

TEST_F(ConflictSearchTest, ANodeServesNoMoreThanItsSlots) {
  const auto solutions = ConflictSearch(request_, 3, agents(3), Collisions::kIgnored, meter_).run();
  ASSERT_FALSE(solutions.empty());
  for (const auto& paths : solutions)
    for (const auto& [node, count] : visits(paths)) EXPECT_EQ(count, 1) << node;
  const auto roomy = ConflictSearch(request_, 3, agents(1), Collisions::kIgnored, meter_).run();
  EXPECT_EQ(visits(roomy.back())[3], 3) << "three microbatches share the nearest node";
}

TEST_F(ConflictSearchTest, StagesServeEquallyMany) {
  request_.rules.equal_exposure = true;
  const auto solutions = ConflictSearch(request_, 2, agents(1), Collisions::kIgnored, meter_).run();
  ASSERT_FALSE(solutions.empty());
  for (const auto& paths : solutions) {
    std::array<int, 3> served{};
    for (const auto& [node, count] : visits(paths)) served[static_cast<size_t>(node / 3)] += count;
    EXPECT_LE(std::abs(served[1] - served[2]), 1);
  }
}

// All would rather go to the nearer stage alone.
TEST_F(ConflictSearchTest, EveryStageServesOneWhereExposureIsUnequal) {
  request_.rules.equal_exposure = false;
  for (NetworkNode& node : request_.network.nodes) node.slots = 3;
  for (int a = 0; a < 9; ++a)
    for (int b = 6; b < 9; ++b) request_.network.link(a, b) = request_.network.link(b, a) = {.latency_s = 9};
  const auto solutions = ConflictSearch(request_, 2, agents(1), Collisions::kIgnored, meter_).run();
  ASSERT_FALSE(solutions.empty());
  int uneven = 0;
  for (const auto& paths : solutions) {
    std::array<int, 3> served{};
    for (const auto& [node, count] : visits(paths)) served[static_cast<size_t>(node / 3)] += count;
    EXPECT_GE(served[1], 1);
    EXPECT_GE(served[2], 1);
    uneven += served[1] == 2 && served[2] == 1 ? 1 : 0;
  }
  EXPECT_GT(uneven, 0);
}

TEST_F(ConflictSearchTest, PathsDoNotMeet) {
  const auto solutions = ConflictSearch(request_, 3, agents(1), Collisions::kAvoided, meter_).run();
  ASSERT_FALSE(solutions.empty());
  for (const auto& paths : solutions)
    for (size_t a = 0; a < paths.size(); ++a)
      for (size_t b = 0; b < a; ++b)
        for (const PathVisit& x : paths[a].visits)
          for (const PathVisit& y : paths[b].visits)
            EXPECT_TRUE(x.node != y.node || x.end_s <= y.start_s || y.end_s <= x.start_s);
}

TEST(SkippipePlanner, OnePathPerDataNodeWhereExposureAllows) {
  // 4 data nodes, each a path of 3 visits behind it: 12 visits, 3 for each of 4 stages.
  PlanRequest request = make_request(2, {4, 3, 3, 3, 3});
  request.rules.skip_ratio = 0.2;
  request.microbatches = 16;
  const auto paths_each = [&](const std::string& method) {
    const PlanResult result = make_planner(method)->plan(request);
    SKP_CHECK(result.plan.has_value(), "{}", result.why);
    std::map<int, std::set<std::vector<int>>> paths;
    for (const PlannedMicrobatch& microbatch : result.plan->microbatches) {
      std::vector<int> path;
      for (const PlannedVisit& visit : microbatch.visits) path.push_back(visit.node);
      paths[path[0]].insert(path);
    }
    size_t most = 0;
    for (const auto& [node, of_node] : paths) most = std::max(most, of_node.size());
    EXPECT_EQ(paths.size(), 4u);
    return most;
  };
  EXPECT_EQ(paths_each("skippipe"), 1u);
  EXPECT_GT(paths_each("skippipe-no-collision"), 1u) << "3 slots, and 4 paths divide a share of 4";
}

TEST(SkippipePlanner, SharesOfAllSizesGiveValidPlans) {
  for (const std::string method : {"random-skip", "skippipe-no-collision", "skippipe"}) {
    for (const auto& [microbatches, equal_exposure] :
         {std::pair(1, true), std::pair(2, true), std::pair(7, true), std::pair(12, true), std::pair(30, true),
          std::pair(1, false), std::pair(2, false), std::pair(7, false), std::pair(30, false)}) {
      PlanRequest request = make_request(4, {5, 3, 2, 3});
      request.microbatches = microbatches;
      request.rules.equal_exposure = equal_exposure;
      skip_less_if_needed(request);
      request.budget.evaluations = 50;
      const PlanResult result = make_planner(method)->plan(request);
      ASSERT_TRUE(result.plan) << method << ": " << result.why;
      EXPECT_THAT(validate(*result.plan, request.network), testing::IsEmpty());
      std::map<int, int> started;
      for (const PlannedMicrobatch& microbatch : result.plan->microbatches) ++started[microbatch.data_node()];
      for (const auto& [node, count] : started) EXPECT_LE(std::abs(count - microbatches / 5.0), 1) << node;
    }
  }
}

// One slot each, and paths that may go back: whatever the search finds, the plan must run.
TEST(SkippipePlanner, FewSlotsAndManySwapsStillRun) {
  for (const uint64_t seed : test::seeds(20)) {
    SCOPED_TRACE(test::replay_command(seed));
    PlanRequest request = make_request(seed, {3, 1, 1, 1, 1});
    for (NetworkNode& node : request.network.nodes) node.slots = 1;
    request.budget.evaluations = 20;
    for (const std::string method : {"skippipe-no-collision", "skippipe"}) {
      const PlanResult result = make_planner(method)->plan(request);
      ASSERT_TRUE(result.plan) << result.why;
      EXPECT_THAT(validate(*result.plan, request.network), testing::IsEmpty());
    }
  }
}

TEST(SkippipePlanner, SaysWhichRuleCannotBeMet) {
  for (const std::string method : {"random-skip", "skippipe-no-collision", "skippipe"}) {
    PlanRequest request = make_request(1, {1, 1, 1, 1});
    request.rules.skip_ratio = 1;
    EXPECT_EQ(make_planner(method)->plan(request).rule, kPathStagesRule);
    request = make_request(1, std::vector<int>(10, 1));
    request.rules.skip_ratio = 0.8;
    const PlanResult result = make_planner(method)->plan(request);
    EXPECT_EQ(result.rule, kExposureRule);
    EXPECT_THAT(result.why, HasSubstr("while paths jump 4 stages at most"));
  }
}

}  // namespace
}  // namespace skippipe
