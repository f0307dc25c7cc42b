// Which nodes measure the loss on held-out samples, and in which order.
#include "schedule/plan/validation_plan.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

std::vector<int> nodes_of(const PlannedMicrobatch& microbatch) {
  std::vector<int> nodes;
  for (const PlannedVisit& visit : microbatch.visits) nodes.push_back(visit.node);
  return nodes;
}

// Two data nodes, a replicated stage, and paths that skip one stage, or swap two.
Plan three_stages() {
  Plan plan;
  plan.node_names = {"a", "b", "c", "d", "e", "f"};
  plan.stages = {{0, 3}, {1, 4, 5}, {2}};
  for (const std::vector<int>& path : {std::vector<int>{0, 4}, {3, 2}, {0, 2, 5}}) {
    PlannedMicrobatch& microbatch = plan.microbatches.emplace_back();
    for (const int node : path) microbatch.visits.push_back({.node = node, .rank = 7, .backward_priority = 9});
  }
  return plan;
}

TEST(ValidationPlan, TakesEachBatchThroughAllStagesAndAlongThePlansPaths) {
  const ValidationPlan validation = plan_validation(three_stages(), 5, 4);
  EXPECT_EQ(validation.interval, 5u);
  ASSERT_EQ(validation.microbatches.size(), 8u);
  ASSERT_TRUE(validation.has_paths());
  // At the nodes of the plan's path where it has the stage, else at a replica in turn.
  EXPECT_EQ(nodes_of(validation.microbatches[0]), (std::vector{0, 4, 2}));
  EXPECT_EQ(nodes_of(validation.microbatches[1]), (std::vector{3, 4, 2}));
  EXPECT_EQ(nodes_of(validation.microbatches[2]), (std::vector{0, 5, 2})) << "in order, though the plan swaps";
  EXPECT_EQ(nodes_of(validation.microbatches[3]), (std::vector{0, 4, 2}));
  for (const int b : {0, 1, 2, 3})
    EXPECT_EQ(nodes_of(validation.microbatches[static_cast<size_t>(4 + b)]),
              nodes_of(three_stages().microbatches[static_cast<size_t>(b % 3)]));
  EXPECT_EQ(validation.batch_of(6), 2);
  EXPECT_FALSE(validation.passes_all_stages(6));
  EXPECT_TRUE(validation.passes_all_stages(2));
}

TEST(ValidationPlan, MeasuresOnceWhereThePlansPathsAreAllStagesInOrder) {
  Plan plan = three_stages();
  plan.microbatches = {{.visits = {{.node = 3}, {.node = 1}, {.node = 2}}}};
  const ValidationPlan validation = plan_validation(plan, 1, 4);
  EXPECT_EQ(validation.microbatches.size(), 4u);
  EXPECT_FALSE(validation.has_paths());
  plan.stages = {{0}};
  plan.microbatches = {{.visits = {{.node = 0}}}};
  EXPECT_FALSE(plan_validation(plan, 1, 2).has_paths()) << "a single stage";
}

TEST(ValidationPlan, EveryNodeRanksItsVisitsByMicrobatch) {
  const ValidationPlan validation = plan_validation(three_stages(), 1, 5);
  std::vector<int> next(6);
  std::set<int> losses;
  for (const PlannedMicrobatch& microbatch : validation.microbatches) {
    for (const PlannedVisit& visit : microbatch.visits) EXPECT_EQ(visit.rank, next[static_cast<size_t>(visit.node)]++);
    EXPECT_TRUE(losses.insert(microbatch.loss_priority).second);
    EXPECT_GT(microbatch.loss_priority, microbatch.visits.front().forward_priority);
  }
}

}  // namespace
}  // namespace skippipe
