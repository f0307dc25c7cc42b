// The published 20-node example (arXiv:2502.19913): its paths in our simulator, and our methods on its network. Times
// are to the last backward pass, as published ones leave out gradient reduction.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/json_reader.h"
#include "schedule/machine/ranking.h"
#include "schedule/machine/simulator.h"
#include "schedule/plan/validator.h"
#include "schedule/search/planner.h"

namespace skippipe {
namespace {

using Paths = std::vector<std::vector<int>>;

constexpr double kPublishedTolerance = 0.04;
constexpr double kPlannedTolerance = 0.03;

Paths read_lists(const JsonReader& root) {
  Paths lists;
  for (const JsonReader& list : root.items()) {
    lists.emplace_back();
    for (const JsonReader& item : list.items()) lists.back().push_back(static_cast<int>(item.as_int(0, 1 << 20)));
  }
  return lists;
}

class Published : public testing::Test {
 protected:
  // Delays are those of a message of activations: links are never busy.
  Network network() const {
    Network network;
    const std::vector<JsonReader> rows = root_.at("delay_s").items();
    for (size_t i = 0; i < rows.size(); ++i) {
      NetworkNode& node = network.nodes.emplace_back();
      node.name = fmt::format("node-{}", i);
      node.forward_s = root_.at("forward_s").as_double();
      node.backward_over_forward = root_.at("backward_over_forward").as_double();
      node.loss_over_forward = root_.at("loss_over_forward").as_double();
      node.slots = static_cast<int>(root_.at("slots").as_int(1, 100));
      for (const JsonReader& delay : rows[i].items()) network.links.push_back({.latency_s = delay.as_double(0)});
    }
    return network;
  }

  PlanRequest request() const {
    PlanRequest request;
    request.network = network();
    request.stages = read_lists(root_.at("partitions"));
    request.rules.skip_ratio = 1.0 / 3;
    request.workload.stage_layers.assign(request.stages.size(), 1);
    request.workload.stage_gradient_bytes.assign(request.stages.size(), 0);
    request.workload.exchange_norm = false;
    request.microbatches = static_cast<int>(root_.at("microbatches_per_data_node").as_int(1, 100)) *
                           static_cast<int>(request.stages[0].size());
    return request;
  }

  double published_s(const std::string& method) const {
    return root_.at("published_iteration_s").at(method).as_double();
  }

  // The published paths, in order of data nodes, the same number for each. Data nodes take turns in the start order,
  // and each uses its paths in turn; earlier microbatches go first.
  double simulated_s(const std::string& method) const {
    const Paths paths = read_lists(root_.at("published_paths").at(method));
    const PlanRequest request = this->request();
    Plan plan;
    plan.rules = request.rules;
    plan.stages = request.stages;
    plan.workload = request.workload;
    for (const NetworkNode& node : request.network.nodes) {
      plan.node_names.push_back(node.name);
      plan.node_slots.push_back(node.slots);
    }
    const size_t data_nodes = plan.stages[0].size();
    const size_t paths_each = paths.size() / data_nodes;
    for (size_t m = 0; m < static_cast<size_t>(request.microbatches); ++m) {
      PlannedMicrobatch& microbatch = plan.microbatches.emplace_back();
      for (const int node : paths[m % data_nodes * paths_each + m / data_nodes % paths_each])
        microbatch.visits.push_back({.node = node});
    }
    assign_priorities(plan);
    Simulator simulator(request.network);
    SKP_CHECK(complete_plan(plan, simulator), "{}", simulator.describe_deadlock());
    require_valid(validate(plan, request.network), method);
    return plan.predicted.iteration_s;
  }

  void expect_published(const std::string& method) const {
    EXPECT_NEAR(simulated_s(method), published_s(method), kPublishedTolerance * published_s(method));
  }

  double planned_s(const std::string& method, const PlanRequest& request) const {
    const PlanResult result = make_planner(method)->plan(request);
    SKP_CHECK(result.plan.has_value(), "{}", result.why);
    EXPECT_TRUE(validate(*result.plan, request.network).empty());
    return result.plan->predicted.iteration_s;
  }

 private:
  nlohmann::json document_ = load_json(SKIPPIPE_SOURCE_DIR "/tests/data/skippipe-20-nodes.json");
  JsonReader root_{document_, "skippipe-20-nodes.json"};
};

TEST_F(Published, OurSimulatorAgreesOnRandomPaths) { expect_published("random_skip"); }
TEST_F(Published, OurSimulatorAgreesOnPathsThatMayCollide) { expect_published("no_collision_avoidance"); }
TEST_F(Published, OurSimulatorAgreesOnPathsThatAvoidEachOther) { expect_published("collision_aware"); }

TEST_F(Published, SkippipeIsAsFastAsPublished) {
  const PlanRequest request = this->request();
  const double skippipe_s = planned_s("skippipe", request);
  EXPECT_LE(skippipe_s, published_s("collision_aware") * (1 + kPlannedTolerance));
  EXPECT_LT(skippipe_s, planned_s("full", request));
  // Random paths may take the link of 132 s.
  EXPECT_LT(planned_s("skippipe-no-collision", request), planned_s("random-skip", request));
}

TEST_F(Published, SkippipeIsAsFastBehindOurPlacement) {
  PlanRequest request = this->request();
  for (const std::vector<int>& stage : std::exchange(request.stages, {}))
    request.nodes_per_stage.push_back(static_cast<int>(stage.size()));
  for (request.seed = 0; request.seed < 4; ++request.seed)
    EXPECT_LE(planned_s("skippipe", request), published_s("collision_aware") * (1 + kPlannedTolerance));
}

// As the published plans have it: six microbatches for each of five data nodes.
TEST_F(Published, JointIsFasterWithEqualDataToo) {
  PlanRequest request = this->request();
  for (const std::vector<int>& stage : std::exchange(request.stages, {}))
    request.nodes_per_stage.push_back(static_cast<int>(stage.size()));
  request.rules.equal_data = true;
  request.budget.evaluations = 100000;
  const PlanResult result = make_planner("joint")->plan(request);
  ASSERT_TRUE(result.plan);
  require_valid(validate(*result.plan, request.network), "joint");
  EXPECT_LT(result.plan->predicted.iteration_s, 0.85 * published_s("collision_aware"));
  std::map<int, int> started;
  for (const PlannedMicrobatch& microbatch : result.plan->microbatches) ++started[microbatch.data_node()];
  EXPECT_EQ(started.size(), 5u);
  for (const auto& [node, count] : started) EXPECT_EQ(count, 6) << "node " << node;
}

}  // namespace
}  // namespace skippipe
