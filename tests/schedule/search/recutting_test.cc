// Re-cutting: what stages of other layers take, and plans of fewer stages for the nodes that are left.
#include "schedule/search/recutting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "schedule/search/planning.h"
#include "tests/expect_error.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using testing::IsEmpty;

constexpr SearchBudget kShortSearch = {.evaluations = 300};

// As of a model: a stage takes so much for each layer and so much whatever its layers, stage 0 its embedding besides.
Workload workload_of(const std::vector<int>& stage_layers, int64_t fixed_bytes) {
  Workload workload;
  workload.stage_layers = stage_layers;
  workload.activation_bytes = 1 << 20;
  for (const int layers : stage_layers) {
    const int64_t embedding = workload.stage_gradient_bytes.empty() ? 700 : 0;
    workload.stage_gradient_bytes.push_back(embedding + layers * 4000);
    workload.stage_state_bytes.push_back(embedding * 4 + layers * 16000 + fixed_bytes);
    workload.stage_slot_bytes.push_back(layers * 900 + fixed_bytes);
  }
  return workload;
}

std::vector<int> draw_layers(int layers, int stages, Random& random) {
  std::vector<int> result(static_cast<size_t>(stages), 1);
  for (int left = layers - stages; left > 0; --left) ++result[random.below(result.size())];
  return result;
}

TEST(Recutting, KnowsWhatStagesTake) {
  for (const uint64_t seed : test::seeds(200)) {
    SCOPED_TRACE(test::replay_command(seed));
    Random random(seed, {13});
    const int layers = 6 + static_cast<int>(random.below(20));
    const auto before = draw_layers(layers, 2 + static_cast<int>(random.below(5)), random);
    const auto after = draw_layers(layers, 1 + static_cast<int>(random.below(6)), random);
    EXPECT_EQ(recut_workload(workload_of(before, 0), before), workload_of(before, 0));
    const int64_t fixed_bytes = random.below(2) == 0 ? 0 : 50;
    const Workload real = workload_of(after, fixed_bytes);
    const Workload cut = recut_workload(workload_of(before, fixed_bytes), after);
    EXPECT_EQ(cut.stage_layers, after);
    EXPECT_EQ(cut.stage_gradient_bytes, real.stage_gradient_bytes);
    for (size_t s = 0; s < after.size(); ++s) {
      EXPECT_GE(cut.stage_state_bytes[s], real.stage_state_bytes[s]) << "stage " << s;
      EXPECT_GE(cut.stage_slot_bytes[s], real.stage_slot_bytes[s]) << "stage " << s;
    }
  }
  // Exact where nothing is fixed and no stage gets fewer layers than there were.
  EXPECT_EQ(recut_workload(workload_of({2, 2, 2, 2}, 0), {4, 4}), workload_of({4, 4}, 0));
}

TEST(Recutting, RefusesWhatItCannotKnow) {
  SKP_EXPECT_ERROR((void)recut_workload(workload_of({2, 2}, 0), {2, 3}), ConfigError,
                   "stages of 5 layers in all, expected the plan's 4");
  SKP_EXPECT_ERROR((void)recut_workload(workload_of({4}, 0), {2, 2}), ConfigError,
                   "a plan of one stage does not say what a layer takes");
  Workload huge = workload_of({1, 1, 7}, 0);
  huge.stage_gradient_bytes[1] = int64_t{1} << 50;
  SKP_EXPECT_ERROR((void)recut_workload(huge, {5, 4}), ConfigError, "a stage of 5 layers would take more than");
}

PlanRequest request_for(uint64_t seed, int nodes, int stages) {
  PlanRequest request;
  request.network = test::random_network(seed, nodes);
  request.rules.skip_ratio = 1.0 / 3;
  request.workload = workload_of(std::vector<int>(static_cast<size_t>(stages), 2), 50);
  request.microbatches = 6;
  request.budget = kShortSearch;
  skip_less_if_needed(request);
  return request;
}

// A node for each stage, and one gone: the others hold the model in a stage less.
TEST(Recutting, PlansForTheNodesThatAreLeft) {
  for (const uint64_t seed : test::seeds(20)) {
    SCOPED_TRACE(test::replay_command(seed));
    const int nodes = 2 + static_cast<int>(seed % 4);
    const PlanRequest request = request_for(seed, nodes, nodes);
    const PlanResult old = make_planner("joint")->plan(request);
    ASSERT_TRUE(old.plan) << old.why;
    const ReplanOptions options = {.gone = {"node-1"}, .budget = kShortSearch};
    EXPECT_EQ(replan(*old.plan, request.network, options).rule, kStageNodesRule);
    const PlanResult fewer = recut_to_fit(*old.plan, request.network, options);
    ASSERT_TRUE(fewer.plan) << fewer.why;
    const Plan& plan = *fewer.plan;
    EXPECT_THAT(validate(plan, request.network), IsEmpty());
    EXPECT_EQ(plan.stage_count(), nodes - 1);
    EXPECT_EQ(std::accumulate(plan.workload.stage_layers.begin(), plan.workload.stage_layers.end(), 0), 2 * nodes);
    EXPECT_EQ(plan.node_names, old.plan->node_names) << "indices are stable";
    EXPECT_EQ(plan.stage_of_nodes()[1], -1);
    EXPECT_EQ(plan.microbatches.size(), old.plan->microbatches.size());
    test::expect_nobody_idle(plan, request.network);
  }
}

TEST(Recutting, TakesTheNumberOfStagesThatIsAskedFor) {
  const PlanRequest request = request_for(3, 6, 4);
  const PlanResult old = make_planner("joint")->plan(request);
  ASSERT_TRUE(old.plan) << old.why;
  for (int stages = 1; stages <= 5; ++stages) {
    const PlanResult found = recut(*old.plan, request.network, stages, {.gone = {"node-0"}, .budget = kShortSearch});
    ASSERT_TRUE(found.plan) << found.why;
    EXPECT_EQ(found.plan->stage_count(), stages);
    EXPECT_THAT(validate(*found.plan, request.network), IsEmpty());
  }
  EXPECT_EQ(recut(*old.plan, request.network, 6, {.gone = {"node-0"}}).rule, kStageNodesRule);
  SKP_EXPECT_ERROR((void)recut(*old.plan, request.network, 9, {}), ConfigError, "found 9 stages, expected 1 to 8");
  SKP_EXPECT_ERROR((void)recut(*old.plan, request.network, 2, {.gone = {"x"}}), ConfigError, "gone: 'x' is a node");
  EXPECT_EQ(
      recut_to_fit(*old.plan, request.network, {.gone = {"node-0", "node-1", "node-2", "node-3", "node-4", "node-5"}})
          .why,
      "no node is left");
}

// Where memory is short, a node may be too small for any stage: then the larger ones hold fewer.
TEST(Recutting, FitsTheMemory) {
  PlanRequest request = request_for(1, 4, 4);
  for (NetworkNode& node : request.network.nodes) {
    node.slots_from_memory = true;
    node.memory_bytes = 1'000'000;
  }
  const PlanResult old = make_planner("joint")->plan(request);
  ASSERT_TRUE(old.plan) << old.why;
  Network changed = request.network;
  changed.nodes[2].memory_bytes = 10'000;
  const PlanResult fewer = recut_to_fit(*old.plan, changed, {.gone = {"node-1"}, .budget = kShortSearch});
  ASSERT_TRUE(fewer.plan) << fewer.why;
  EXPECT_EQ(fewer.plan->stage_count(), 2);
  EXPECT_EQ(fewer.plan->stage_of_nodes()[2], -1);
  EXPECT_THAT(validate(*fewer.plan, changed), IsEmpty());
  for (NetworkNode& node : changed.nodes) node.memory_bytes = 10'000;
  EXPECT_EQ(recut_to_fit(*old.plan, changed, {.gone = {"node-1"}}).rule, kSlotsRule);
}

}  // namespace
}  // namespace skippipe
