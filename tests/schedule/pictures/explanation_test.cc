// Critical paths are exact; explanations name what helps.
#include "schedule/pictures/explanation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "base/error.h"
#include "schedule/machine/ranking.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using Kind = CriticalPiece::Kind;
using testing::HasSubstr;

void expect_exact(const std::vector<CriticalPiece>& path, double iteration_s) {
  double at_s = 0, sum_s = 0;
  for (const CriticalPiece& piece : path) {
    EXPECT_EQ(piece.start_s, at_s);
    EXPECT_GT(piece.end_s, piece.start_s);
    at_s = piece.end_s;
    sum_s += piece.seconds();
  }
  EXPECT_EQ(at_s, iteration_s);
  EXPECT_NEAR(sum_s, iteration_s, 1e-9);
}

// What a piece says that a node or a link did, it did.
void expect_true(const CriticalPiece& piece, const SimulationRecord& record) {
  const auto ran = [&](int microbatch) {
    return std::ranges::any_of(record.work, [&](const SimulationRecord::Work& work) {
      return work.node == piece.node && work.microbatch == microbatch && work.start_s <= piece.start_s &&
             work.end_s >= piece.end_s;
    });
  };
  const auto idle = [&] {
    return std::ranges::none_of(record.work, [&](const SimulationRecord::Work& work) {
      return work.node == piece.node && work.microbatch >= 0 && work.start_s < piece.end_s &&
             work.end_s > piece.start_s;
    });
  };
  const auto sent = [&](const SimulationRecord::Transfer& transfer) {
    return transfer.from == piece.node && transfer.to == piece.peer && transfer.microbatch == piece.microbatch &&
           transfer.start_s == piece.start_s && transfer.end_s == piece.end_s;
  };
  switch (piece.kind) {
    case Kind::kForward:
    case Kind::kLoss:
    case Kind::kBackward:
      EXPECT_TRUE(ran(piece.microbatch));
      break;
    case Kind::kQueue:
      EXPECT_NE(piece.behind, -1);
      EXPECT_TRUE(ran(piece.behind));
      break;
    case Kind::kTurn:
      EXPECT_NE(piece.behind, piece.microbatch);
      EXPECT_TRUE(idle());
      break;
    case Kind::kActivations:
    case Kind::kReduction:
      EXPECT_TRUE(std::ranges::any_of(record.transfers, sent));
      break;
    case Kind::kNorm:
      EXPECT_TRUE(std::ranges::any_of(record.last_norms, sent));
      break;
    case Kind::kStep:
    case Kind::kLink:
    case Kind::kSlot:
      break;
  }
}

// Of the second iteration: from the step before it on the node where it begins, to its own last step.
void expect_later_exact(const std::vector<CriticalPiece>& path, const SimulationRecord& record) {
  ASSERT_FALSE(path.empty());
  double begin_s = 0, end_s = 0;
  for (const SimulationRecord::Work& work : record.work) {
    if (work.kind != SimulationRecord::Work::Kind::kStep) continue;
    if (work.iteration == 0 && work.node == path.front().node) begin_s = work.end_s;
    if (work.iteration == 1) end_s = std::max(end_s, work.end_s);
  }
  EXPECT_EQ(path.front().start_s, begin_s);
  EXPECT_EQ(path.back().end_s, end_s);
  for (size_t i = 1; i < path.size(); ++i) EXPECT_EQ(path[i].start_s, path[i - 1].end_s);
  for (const CriticalPiece& piece : path) expect_true(piece, record);
}

TEST(CriticalPath, IsExactForAnyPlanAndTiming) {
  std::map<Kind, int> seen;
  for (const uint64_t seed : test::seeds(1500)) {
    SCOPED_TRACE(test::replay_command(seed));
    const auto c = test::random_case(seed);
    if (!c) continue;
    Simulator simulator(c->network);
    for (const double jitter : {1.0, 1.3, 5.0}) {
      SimulationRecord record;
      const Simulation& simulation =
          simulator.run(c->plan, {.iterations = 2, .jitter = jitter, .seed = seed, .record = &record});
      const std::vector<CriticalPiece> path = critical_path(c->plan, record);
      expect_exact(path, simulation.iteration_s);
      for (const CriticalPiece& piece : path) {
        expect_true(piece, record);
        EXPECT_FALSE(describe(piece, c->plan).empty());
        ++seen[piece.kind];
      }
      expect_later_exact(critical_path(c->plan, record, 1), record);
      if (HasFailure()) return;
    }
  }
  if (std::getenv("SKIPPIPE_SEED")) return;
  EXPECT_EQ(seen.size(), 11u) << "some kind never occurred";
}

TEST(CriticalPath, FollowsOneMicrobatchThereAndBack) {
  test::Case c = test::small_case();
  c.plan.microbatches.resize(1);
  for (Link& link : c.network.links) link = {.latency_s = 1};
  for (NetworkNode& node : c.network.nodes) node.forward_s = 1;
  c.plan.workload.stage_gradient_bytes = {0, 0};
  Simulator simulator(c.network);
  ASSERT_TRUE(complete_plan(c.plan, simulator));
  SimulationRecord record;
  simulator.run(c.plan, {.record = &record});
  std::vector<Kind> kinds;
  for (const CriticalPiece& piece : critical_path(c.plan, record)) kinds.push_back(piece.kind);
  EXPECT_EQ(kinds,
            (std::vector<Kind>{Kind::kForward, Kind::kActivations, Kind::kForward, Kind::kActivations, Kind::kLoss,
                               Kind::kActivations, Kind::kBackward, Kind::kActivations, Kind::kBackward, Kind::kNorm}));
  EXPECT_THROW(critical_path(c.plan, {}), PlanError);
}

TEST(Explanation, ChangesSaveWhatTheySay) {
  int helped = 0;
  for (const uint64_t seed : test::seeds(60)) {
    SCOPED_TRACE(test::replay_command(seed));
    const auto c = test::random_case(seed);
    if (!c) continue;
    const Explanation explanation = explain_plan(c->plan, c->network);
    EXPECT_EQ(explanation.iteration_s, c->plan.predicted.iteration_s);
    EXPECT_NEAR(explanation.reranked_s, explanation.iteration_s, 1e-9);
    for (const ChangeEffect& change : explanation.changes) EXPECT_LT(change.iteration_s, explanation.reranked_s);
    EXPECT_TRUE(std::ranges::is_sorted(explanation.changes, {}, &ChangeEffect::iteration_s));
    helped += explanation.changes.empty() ? 0 : 1;

    // The figure of a faster node is that of a plan completed for the network that has it.
    const int node = c->plan.stages[0][0];
    Network faster = c->network;
    faster.nodes[static_cast<size_t>(node)].forward_s /= 2;
    faster.nodes[static_cast<size_t>(node)].step_s_per_byte /= 2;
    Plan plan = c->plan;
    Simulator simulator(faster);
    const auto told = std::ranges::find(
        explanation.changes, plan.node_names[static_cast<size_t>(node)] + " twice as fast", &ChangeEffect::what);
    if (!complete_plan(plan, simulator) || told == explanation.changes.end()) continue;
    EXPECT_NEAR(told->iteration_s, plan.predicted.iteration_s, 1e-9);
  }
  EXPECT_GT(helped, 0);
}

// A node that all wait for: more of it helps most.
TEST(Explanation, FindsTheBottleneck) {
  test::Case c = test::small_case();
  for (Link& link : c.network.links) link = {.latency_s = 0.001};
  for (NetworkNode& node : c.network.nodes) node.forward_s = 0.01;
  c.network.nodes[3].forward_s = 1;
  Simulator simulator(c.network);
  ASSERT_TRUE(complete_plan(c.plan, simulator));
  const Explanation explanation = explain_plan(c.plan, c.network);
  ASSERT_GE(explanation.changes.size(), 2u);
  EXPECT_EQ(explanation.changes[0].what, "node-3 twice as fast");
  EXPECT_EQ(explanation.changes[1].what, "another node like node-2 in stage 1, for half the visits of node-3");
  const std::string text = explanation_text(c.plan, explanation, 1);
  EXPECT_THAT(text, HasSubstr("% computing"));
  EXPECT_THAT(text, HasSubstr("backward of microbatch 3 on node-3"));
  EXPECT_THAT(text, HasSubstr("node-3 twice as fast: 5.0"));
  EXPECT_THAT(text, testing::Not(HasSubstr("another node")));
}

TEST(Explanation, NamesRegionsAndLinks) {
  test::Case c = test::small_case();
  for (Link& link : c.network.links) link = {.latency_s = 5};
  for (size_t i = 0; i < 4; ++i) c.network.nodes[i].region = i < 2 ? "east" : "west";
  Simulator simulator(c.network);
  ASSERT_TRUE(complete_plan(c.plan, simulator));
  const Explanation explanation = explain_plan(c.plan, c.network);
  ASSERT_FALSE(explanation.changes.empty());
  EXPECT_EQ(explanation.changes[0].what, "half the delay between east and west");
  for (const ChangeEffect& change : explanation.changes) EXPECT_THAT(change.what, testing::Not(HasSubstr("bandwidth")));
}

// Two nodes behind thin lines: one line alone helps little while the other stays.
TEST(Explanation, TriesUplinks) {
  test::Case c = test::small_case();
  for (Link& link : c.network.links) link = {.latency_s = 0.001};
  for (NetworkNode& node : c.network.nodes) node.forward_s = 0.01;
  for (const size_t node : {2u, 3u}) {
    c.network.nodes[node].region = "home";
    c.network.nodes[node].uplink_bytes_per_s = static_cast<double>(c.plan.workload.activation_bytes);
  }
  Simulator simulator(c.network);
  ASSERT_TRUE(complete_plan(c.plan, simulator));
  const Explanation explanation = explain_plan(c.plan, c.network);
  ASSERT_FALSE(explanation.changes.empty());
  EXPECT_THAT(explanation.changes[0].what,
              testing::AnyOf("twice the uplink of every node of home", "twice the uplink of every node"));

  Network wider = c.network;
  for (const size_t node : {2u, 3u}) wider.nodes[node].uplink_bytes_per_s *= 2;
  Simulator wider_simulator(wider);
  Plan plan = c.plan;
  ASSERT_TRUE(complete_plan(plan, wider_simulator));
  EXPECT_NEAR(explanation.changes[0].iteration_s, plan.predicted.iteration_s, 1e-9);
}

}  // namespace
}  // namespace skippipe
