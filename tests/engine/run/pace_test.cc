#include "engine/run/pace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace skippipe {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::vector<std::string> kNames = {"a", "b", "c"};

// Two stages; the data node a, and b, which computes twice as long for a layer as the others; c is a replica of a's.
struct PaceTest : ::testing::Test {
  PaceTest() {
    for (const std::string& name : kNames) {
      NetworkNode node;
      node.name = name;
      node.forward_s = name == "b" ? 0.02 : 0.01;
      node.backward_over_forward = 2;
      node.loss_over_forward = 0.5;
      network.nodes.push_back(node);
    }
    plan.node_names = kNames;
    plan.stages = {{0, 2}, {1}};
    plan.workload.samples = 2;
    plan.workload.stage_layers = {1, 3};
    plan.workload.stage_gradient_bytes = {0, 0};
    plan.microbatches = {{.visits = {{.node = 0}, {.node = 1}}}, {.visits = {{.node = 2}, {.node = 1}}}};
    plan.predicted.steady_iteration_s = 1;
    planned = planned_pace(plan, network);
  }

  // Iterations as planned, but for these factors.
  std::vector<IterationPace> iterations(size_t count, double seconds, std::vector<double> factors) const {
    std::vector<IterationPace> result(count, {seconds, planned.busy_s});
    for (IterationPace& iteration : result)
      for (size_t node = 0; node < factors.size(); ++node) iteration.busy_s[node] *= factors[node];
    return result;
  }
  std::vector<std::string> causes(const std::vector<IterationPace>& found) const {
    return describe_causes(find_pace(planned, found).value(), kNames);
  }

  Network network;
  Plan plan;
  IterationPace planned;
};

TEST_F(PaceTest, ThePlanSaysHowLongEachNodeComputes) {
  EXPECT_EQ(planned.seconds, 1);
  ASSERT_EQ(planned.busy_s.size(), 3u);
  EXPECT_NEAR(planned.busy_s[0], 0.02 * (1 + 2 + 0.5), 1e-12);
  EXPECT_NEAR(planned.busy_s[1], 2 * 0.12 * (1 + 2), 1e-12);
  EXPECT_NEAR(planned.busy_s[2], planned.busy_s[0], 1e-12);
}

TEST_F(PaceTest, ASlowNodeIsNamedOnceItIsSure) {
  EXPECT_FALSE(find_pace(planned, iterations(kSureIterations - 1, 3, {1, 5, 1})).has_value());
  std::vector<IterationPace> slow = iterations(kSureIterations, 3, {1, 5, 1});
  EXPECT_THAT(causes(slow), ElementsAre("b computes 5.0 x slower than planned"));
  EXPECT_EQ(describe_pace(find_pace(planned, slow).value(), planned), "an iteration takes 3 s, planned 1 s (+200.0 %)");
  // Not where a third of the iterations go as planned.
  for (size_t i = 0; i < kSureIterations / 3; ++i) slow[i] = {1, planned.busy_s};
  EXPECT_THAT(causes(slow), IsEmpty());
  EXPECT_THAT(causes(iterations(kSureIterations, 1.2, {1, 1.4, 1})), IsEmpty());
  // Nor where the iteration does not feel it.
  EXPECT_THAT(causes(iterations(kSureIterations, 1, {1.6, 1, 1})), IsEmpty());
}

TEST_F(PaceTest, SeveralSlowNodesComeInOrder) {
  EXPECT_THAT(causes(iterations(20, 3, {2, 3, 1})),
              ElementsAre("b computes 3.0 x slower than planned", "a computes 2.0 x slower than planned"));
  const std::vector<std::string> all = causes(iterations(20, 3, {2, 3, 4}));
  ASSERT_EQ(all.size(), 1u);
  EXPECT_THAT(all.front(), ::testing::StartsWith("all nodes compute 2.0 to 4.0 x slower than planned"));
}

TEST_F(PaceTest, WhereNobodyComputesSlowerTheyWait) {
  EXPECT_THAT(causes(iterations(20, 2, {})), ElementsAre(::testing::HasSubstr("waiting for messages")));
  EXPECT_THAT(causes(iterations(20, 1.4, {})), IsEmpty());
  // Of runs that did not record who computed how long, nobody is accused.
  EXPECT_THAT(causes(std::vector<IterationPace>(20, {2, {}})), IsEmpty());
}

TEST_F(PaceTest, ARunHearsEachThingOnce) {
  PaceWatch watch(plan, network);
  std::vector<std::string> said;
  const auto run = [&](size_t count, double seconds, const std::vector<double>& factors) {
    said.clear();
    for (const IterationPace& iteration : iterations(count, seconds, factors))
      for (const std::string& sentence : watch.add(iteration)) said.push_back(sentence);
  };
  run(1, 100, {100, 100, 100});  // cold
  run(kSureIterations - 1, 3, {1, 5, 1});
  EXPECT_THAT(said, IsEmpty());
  run(1, 3, {1, 5, 1});
  EXPECT_THAT(said,
              ElementsAre("an iteration takes 3 s, planned 1 s (+200.0 %)", "b computes 5.0 x slower than planned"));
  run(5 * kSureIterations, 3, {1, 5, 1});
  EXPECT_THAT(said, IsEmpty());
  run(kSureIterations, 3, {4, 5, 1});
  EXPECT_THAT(said, ElementsAre("a computes 4.0 x slower than planned"));
}

}  // namespace
}  // namespace skippipe
