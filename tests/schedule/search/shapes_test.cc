// Shapes: what is tried, what fits, what slow and small nodes get, and what is chosen and told.
#include "schedule/search/shapes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "schedule/pictures/shape_table.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "schedule/search/capacity.h"
#include "schedule/search/shape_search.h"
#include "tests/expect_error.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using testing::Each;
using testing::Ge;
using testing::HasSubstr;
using testing::Not;

constexpr int64_t kGigabyte = 1'000'000'000;
constexpr int kPerDataNode = 4;

int sum(const std::vector<int>& list) { return std::accumulate(list.begin(), list.end(), 0); }

// A layer takes 1 GB, stage 0 another 2, a slot 0.1 GB for each layer.
Workload workload_of(const std::vector<int>& stage_layers) {
  Workload workload;
  workload.stage_layers = stage_layers;
  workload.activation_bytes = 1 << 20;
  for (const int layers : stage_layers) {
    workload.stage_gradient_bytes.push_back(int64_t{layers} << 20);
    workload.stage_state_bytes.push_back(layers * kGigabyte);
    workload.stage_slot_bytes.push_back(layers * kGigabyte / 10);
  }
  workload.stage_state_bytes[0] += 2 * kGigabyte;
  return workload;
}

// Like nodes on quick links, with 4 slots each.
ShapeRequest request_of(int nodes, int layers) {
  ShapeRequest request;
  for (int i = 0; i < nodes; ++i) {
    NetworkNode& node = request.plan.network.nodes.emplace_back();
    node.name = fmt::format("node-{}", i);
    node.forward_s = 0.1;
    node.slots = 4;
  }
  const auto count = static_cast<size_t>(nodes);
  request.plan.network.links.assign(count * count, {.latency_s = 0.001, .bandwidth_bytes_per_s = 1e9});
  request.plan.rules.skip_ratio = 1.0 / 3;
  request.plan.budget.evaluations = 4000;
  request.layers = layers;
  request.workload_of = workload_of;
  request.microbatches_of = [](int data_nodes) { return kPerDataNode * data_nodes; };
  return request;
}

void give_memory(ShapeRequest& request, int node, int64_t gigabytes) {
  NetworkNode& found = request.plan.network.nodes[static_cast<size_t>(node)];
  found.slots_from_memory = true;
  found.memory_bytes = gigabytes * kGigabyte;
}

ShapeChoice choose(const ShapeRequest& request) { return choose_shape(*make_planner("joint"), request); }

TEST(Shapes, CandidatesGiveOutAllLayersAndAllNodes) {
  for (const uint64_t seed : test::seeds(40)) {
    SCOPED_TRACE(test::replay_command(seed));
    Random random(seed, {9});
    const int nodes = 1 + static_cast<int>(random.below(24)), layers = 1 + static_cast<int>(random.below(40));
    ShapeRequest request = request_of(nodes, layers);
    request.plan.network = test::random_network(seed, nodes);
    if (random.below(2) == 0)
      for (int node = 0; node < nodes; ++node) give_memory(request, node, 8 + static_cast<int64_t>(random.below(90)));
    const std::vector<int> counts = stage_counts(request);
    ASSERT_FALSE(counts.empty());
    EXPECT_EQ(counts.front(), 1);
    EXPECT_LE(counts.back(), std::min(nodes, layers));
    for (const int stages : counts) {
      const std::vector<Shape> shapes = candidate_shapes(request, stages);
      EXPECT_FALSE(shapes.empty());
      EXPECT_EQ(std::set<Shape>(shapes.begin(), shapes.end()).size(), shapes.size());
      for (const Shape& shape : shapes) {
        EXPECT_EQ(shape.stage_count(), stages);
        EXPECT_EQ(shape.nodes_per_stage.size(), shape.stage_layers.size());
        EXPECT_EQ(sum(shape.stage_layers), layers);
        EXPECT_EQ(sum(shape.nodes_per_stage), nodes);
        EXPECT_THAT(shape.stage_layers, Each(Ge(1)));
        EXPECT_THAT(shape.nodes_per_stage, Each(Ge(1)));
      }
    }
  }
}

TEST(Shapes, ManyStagesAreTriedByEverLargerSteps) {
  const std::vector<int> counts = stage_counts(request_of(300, 1000));
  EXPECT_LT(counts.size(), 50u);
  EXPECT_TRUE(std::ranges::is_sorted(counts));
  EXPECT_GT(counts.back(), 250);
}

TEST(Shapes, PathsMustTrainEveryStage) {
  const ShapeRequest request = request_of(12, 12);
  EXPECT_FALSE(check_stage_count(request, 1));
  EXPECT_FALSE(check_stage_count(request, 3));
  const auto two = check_stage_count(request, 2);
  ASSERT_TRUE(two);
  EXPECT_EQ(two->rule, kExposureRule);
  EXPECT_THAT(two->why, HasSubstr("paths of 1 of 2 stages for 44 microbatches leave out some stage"));
  ShapeRequest far = request;
  far.plan.rules.skip_ratio = 1;
  EXPECT_EQ(check_stage_count(far, 1)->rule, kPathStagesRule);
}

// Four nodes and a single microbatch: whatever is asked, only whole paths train all stages.
TEST(Shapes, SkipLessWhereTheyMay) {
  ShapeRequest request = request_of(4, 12);
  request.microbatches_of = [](int) { return 1; };
  const ShapeChoice strict = choose(request);
  ASSERT_TRUE(strict.plan);
  EXPECT_EQ(strict.plan->stages.front().size(), 1u) << "one stage has no microbatch for a second data node";
  EXPECT_EQ(std::ranges::count(strict.rows, std::string(kExposureRule), &ShapeRow::rule), 3);
  request.may_skip_less = true;
  const ShapeChoice choice = choose(request);
  ASSERT_TRUE(choice.plan);
  EXPECT_THAT(validate(*choice.plan, request.plan.network), testing::IsEmpty());
  std::set<int> planned;
  for (const ShapeRow& row : choice.rows) {
    if (!row.iteration_s) continue;
    planned.insert(row.shape.stage_count());
    EXPECT_DOUBLE_EQ(row.computed_share, 1);
  }
  EXPECT_EQ(planned, (std::set<int>{1, 2, 3, 4}));
  EXPECT_DOUBLE_EQ(choice.skip_ratio, 1.0 / 3);
}

TEST(Shapes, StageZeroHasMoreNodesOrFewerLayers) {
  ShapeRequest request = request_of(12, 24);
  for (NetworkNode& node : request.plan.network.nodes) node.loss_s = 0.4;
  const auto is_lighter = [](const Shape& shape) {
    return shape.stage_layers[0] * shape.nodes_per_stage[1] < shape.stage_layers[1] * shape.nodes_per_stage[0];
  };
  EXPECT_TRUE(std::ranges::any_of(candidate_shapes(request, 4), is_lighter));
}

TEST(Shapes, DataNodesAreNoMoreThanMicrobatches) {
  ShapeRequest request = request_of(12, 12);
  request.microbatches_of = [](int) { return 3; };
  EXPECT_TRUE(candidate_shapes(request, 1).empty());
  for (const Shape& shape : candidate_shapes(request, 3)) EXPECT_LE(shape.nodes_per_stage[0], 3);
}

TEST(Shapes, SlowNodesGetFewerLayers) {
  ShapeRequest request = request_of(3, 12);
  request.plan.rules.skip_ratio = 0;
  request.plan.network.nodes[1].forward_s = 0.5;
  Plan plan;
  plan.workload = workload_of({4, 4, 4});
  plan.stages = {{0}, {1}, {2}};
  const Shape balanced = balance_layers(request, plan);
  EXPECT_EQ(sum(balanced.stage_layers), 12);
  EXPECT_LT(balanced.stage_layers[1], 3);
  EXPECT_GT(balanced.stage_layers[2], balanced.stage_layers[1]);

  // Two stages would be too large for any node.
  for (int node = 0; node < 3; ++node) give_memory(request, node, 10);
  const ShapeChoice choice = choose(request);
  ASSERT_TRUE(choice.plan);
  EXPECT_EQ(choice.plan->stage_count(), 3);
  const int slow = choice.plan->stage_of_nodes()[1];
  EXPECT_EQ(*std::ranges::min_element(choice.plan->workload.stage_layers),
            choice.plan->workload.stage_layers[static_cast<size_t>(slow)]);
  EXPECT_LT(choice.plan->workload.stage_layers[static_cast<size_t>(slow)], 4);
}

TEST(Shapes, SmallNodesGetWhatTheyHold) {
  ShapeRequest request = request_of(4, 16);
  request.plan.rules.skip_ratio = 0;
  for (int node = 0; node < 4; ++node) give_memory(request, node, node < 2 ? 18 : 6);
  for (const bool slots_are_written : {false, true}) {
    for (NetworkNode& node : request.plan.network.nodes) node.slots_from_memory = !slots_are_written;
    const ShapeChoice choice = choose(request);
    ASSERT_TRUE(choice.plan);
    EXPECT_THAT(validate(*choice.plan, request.plan.network), testing::IsEmpty());
    // Stages of 4 layers are too large for nodes 2 and 3.
    for (const int node : {2, 3}) {
      const int stage = choice.plan->stage_of_nodes()[static_cast<size_t>(node)];
      EXPECT_LT(choice.plan->workload.stage_layers[static_cast<size_t>(stage)], 5);
    }
    EXPECT_TRUE(std::ranges::any_of(choice.rows, [](const ShapeRow& row) { return row.rule == kSlotsRule; }));
    EXPECT_THAT(shape_table(choice), HasSubstr("the rule on slots and memory can't be met: no node can hold stage 0"));
  }
}

TEST(Shapes, MovedNodesStayInTheNetwork) {
  const ShapeRequest request = request_of(6, 12);
  Plan plan;
  plan.workload = workload_of({6, 3, 3});
  plan.stages = {{0}, {1, 2, 3}, {4, 5}};
  const std::vector<Shape> moved = move_nodes(request, plan);
  ASSERT_FALSE(moved.empty());
  EXPECT_EQ(moved.front().nodes_per_stage, (std::vector<int>{2, 2, 2}));
  plan.stages = {{0, 1, 2, 3, 4, 5}};
  plan.workload = workload_of({12});
  EXPECT_TRUE(move_nodes(request, plan).empty());
}

TEST(Shapes, SkippingMoreIsNoGain) {
  PlanRules rules;
  rules.skip_ratio = 1.0 / 3;
  EXPECT_DOUBLE_EQ(computed_share(rules, {2, 2, 2}), 2.0 / 3);
  EXPECT_DOUBLE_EQ(computed_share(rules, {4, 4, 4, 4, 4}), 0.6);
  EXPECT_DOUBLE_EQ(computed_share(rules, {7}), 1);
  const ShapeChoice choice = choose(request_of(6, 12));
  ASSERT_TRUE(choice.plan);
  for (const ShapeRow& row : choice.rows)
    EXPECT_LE(row.score, row.samples_per_s() * std::min(1.0, row.computed_share * 1.5) * (1 + 1e-9));
}

TEST(Shapes, TheChoiceIsTheBestAndRepeats) {
  ShapeRequest request = request_of(7, 10);
  request.plan.network = test::random_network(3, 7);
  for (NetworkNode& node : request.plan.network.nodes) node.slots = 3;
  int64_t reported = 0;
  request.plan.progress = [&](const SearchProgress& now) {
    EXPECT_GE(now.evaluations, reported);
    reported = now.evaluations;
  };
  const ShapeChoice choice = choose(request);
  EXPECT_GT(reported, 0);
  EXPECT_LE(reported, request.plan.budget.evaluations + 100);
  ASSERT_TRUE(choice.plan);
  EXPECT_THAT(validate(*choice.plan, request.plan.network), testing::IsEmpty());
  const ShapeRow& best = choice.rows.front();
  EXPECT_EQ(best.shape.stage_layers, choice.plan->workload.stage_layers);
  EXPECT_EQ(shape_of(*choice.plan), best.shape);
  EXPECT_EQ(best.iteration_s, choice.plan->predicted.iteration_s);
  EXPECT_EQ(best.samples, std::ssize(choice.plan->microbatches));
  for (const ShapeRow& row : choice.rows) {
    EXPECT_LE(row.score, best.score);
    EXPECT_GE(row.iteration_s.value_or(row.floor_s), row.floor_s);
  }
  reported = 0;
  const ShapeChoice again = choose(request);
  EXPECT_EQ(shape_table(again), shape_table(choice));
  EXPECT_EQ(again.plan->stages, choice.plan->stages);
}

TEST(Shapes, OneNodeIsOneStage) {
  const ShapeChoice choice = choose(request_of(1, 5));
  ASSERT_TRUE(choice.plan);
  EXPECT_EQ(choice.rows.size(), 1u);
  EXPECT_EQ(choice.plan->workload.stage_layers, std::vector<int>{5});
}

TEST(Shapes, SaysWhyThereIsNone) {
  ShapeRequest request = request_of(3, 9);
  for (int node = 0; node < 3; ++node) give_memory(request, node, 2);
  const ShapeChoice choice = choose(request);
  EXPECT_FALSE(choice.plan);
  EXPECT_EQ(choice.rows.size(), 3u);
  for (const ShapeRow& row : choice.rows) EXPECT_FALSE(row.rule.empty());
  EXPECT_THAT(shape_table(choice), HasSubstr("the rule on the exposure of stages can't be met"));
  request.layers = 0;
  SKP_EXPECT_ERROR(choose(request), ConfigError, "layers: found 0");
}

TEST(Shapes, TheTableHasTwelveRows) {
  ShapeChoice choice;
  for (int i = 0; i < 40; ++i)
    choice.rows.push_back({.shape = {.stage_layers = std::vector<int>(static_cast<size_t>(1 + i / 2), 30),
                                     .nodes_per_stage = std::vector<int>(static_cast<size_t>(1 + i / 2), 2)},
                           .samples = 8,
                           .computed_share = 0.5,
                           .floor_s = 1,
                           .iteration_s = 2 + i,
                           .score = 4.0 / (2 + i)});
  choice.rows.push_back(
      {.shape = {.stage_layers = {1}, .nodes_per_stage = {1}}, .rule = kSlotsRule, .why = "too small"});
  choice.untried = 3;
  const std::string table = shape_table(choice);
  EXPECT_EQ(std::ranges::count(table, '\n'), 15);
  EXPECT_THAT(table, HasSubstr("fewer for shapes that skip more than 0.0 %"));
  choice.skip_ratio = 0.5;
  EXPECT_THAT(shape_table(choice), Not(HasSubstr("ranked by")));
  EXPECT_EQ(std::ranges::count(table, '*'), 1);
  EXPECT_THAT(table, HasSubstr("30 each"));
  EXPECT_THAT(table, HasSubstr("30,30,30 "));
  EXPECT_THAT(table, HasSubstr("50.0 %            2          1          4"));
  EXPECT_THAT(table, HasSubstr("the rule on slots and memory can't be met: too small"));
  EXPECT_THAT(table, HasSubstr("not shown: 29 slower, 3 not planned for"));
  EXPECT_THAT(shape_table({}), Not(HasSubstr("*")));
}

}  // namespace
}  // namespace skippipe
