// The simulator: hand-computed times, random plans and timings, replay by ranks, no allocation.
#include "schedule/machine/simulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "base/error.h"
#include "base/json_reader.h"
#include "base/random.h"
#include "schedule/machine/ranking.h"
#include "tests/schedule/counted_new.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using test::Case;
using Work = SimulationRecord::Work;

// One microbatch over two nodes: forward 1 s and 2 s (2 layers), loss a quarter, backward half as much again.
Case chain() {
  Case result;
  for (int i = 0; i < 2; ++i) {
    NetworkNode& node = result.network.nodes.emplace_back();
    node.name = fmt::format("node-{}", i);
    node.forward_s = 1;
    node.step_s_per_byte = 0.001;
  }
  // 100 bytes: 0.5 s of link, 0.25 s later.
  result.network.links.assign(4, {.latency_s = 0.2, .bandwidth_bytes_per_s = 200, .overhead_s = 0.05});
  result.plan.node_names = {"node-0", "node-1"};
  result.plan.node_slots = {3, 3};
  result.plan.stages = {{0}, {1}};
  result.plan.workload = {
      .activation_bytes = 100, .stage_layers = {1, 2}, .stage_gradient_bytes = {1000, 3000}, .exchange_norm = false};
  result.plan.microbatches = {{.visits = {{.node = 0, .backward_rank = 1}, {.node = 1}}}};
  assign_priorities(result.plan);
  return result;
}

TEST(Simulator, AddsUpOneMicrobatchByHand) {
  const Case c = chain();
  Simulator simulator(c.network);
  const double hop_s = 0.75;
  // forward 1, hop, forward 2, hop, loss 0.25, hop, backward 3, hop, backward 1.5, step 1; node 1 steps meanwhile (3
  // s).
  const double data_end_s = 1 + hop_s + 2 + hop_s + 0.25 + hop_s + 3 + hop_s + 1.5 + 1;
  const double other_end_s = 1 + hop_s + 2 + hop_s + 0.25 + hop_s + 3 + 3;
  const Simulation& result = simulator.run(c.plan);
  EXPECT_FALSE(result.deadlock);
  EXPECT_NEAR(result.iteration_s, std::max(data_end_s, other_end_s), 1e-12);
  EXPECT_EQ(result.bytes_sent, 400);
  EXPECT_NEAR(result.busy_share[0], 3.75 / result.iteration_s, 1e-12);
  EXPECT_NEAR(result.busy_share[1], 8 / result.iteration_s, 1e-12);
  EXPECT_NEAR(result.waiting_share, 1 - (3.75 + 8) / 2 / result.iteration_s, 1e-12);
}

// However deep the stage is.
TEST(Simulator, AMeasuredLossTakesItsSeconds) {
  Case c = chain();
  c.network.nodes[0].loss_s = 0.125;
  c.plan.workload.samples = 2;
  const double forward_s = 2 * (1 + 2), loss_s = 2 * 0.125, backward_s = 2 * (3 + 1.5), step_s = 1;
  EXPECT_NEAR(Simulator(c.network).run(c.plan).iteration_s, forward_s + loss_s + backward_s + 4 * 0.75 + step_s, 1e-12);
}

TEST(Simulator, ExchangesNormsBeforeTheStep) {
  Case c = chain();
  c.plan.workload.exchange_norm = true;
  Simulator simulator(c.network);
  const double backward_end_s = 1 + 0.75 + 2 + 0.75 + 0.25 + 0.75 + 3 + 0.75 + 1.5;
  const double norm_s = 0.25 + 64.0 / 200;
  EXPECT_NEAR(simulator.run(c.plan).iteration_s, backward_end_s + norm_s + 3, 1e-12);
  EXPECT_EQ(simulator.run(c.plan).bytes_sent, 400 + 2 * 64);
}

TEST(Simulator, ValidatesAfterTheStep) {
  const Case c = chain();
  const ValidationPlan validation = plan_validation(c.plan, 2, 1);
  Simulator simulator(c.network);
  const double alone_s = simulator.run(c.plan, {.iterations = 3}).iteration_s;
  const Simulation& result = simulator.run(c.plan, {.iterations = 3, .validation = &validation});
  const double losses_s = 0.25 + 64.0 / 200;
  EXPECT_FALSE(result.deadlock);
  EXPECT_NEAR(result.validation_s, 1 + 0.75 + 2 + 0.75 + 0.25 + losses_s, 1e-12);
  EXPECT_EQ(result.iteration_s, alone_s);
  EXPECT_EQ(result.bytes_sent, 400);
}

// Though a result keeps its slot until the next node lets it in, whatever the paths and the timing.
TEST(Simulator, ValidationsFinishOnRandomPlans) {
  int completed = 0;
  for (const uint64_t seed : test::seeds(300)) {
    SCOPED_TRACE(test::replay_command(seed));
    const std::optional<Case> random = test::random_case(seed);
    if (!random) continue;
    ++completed;
    Simulator simulator(random->network);
    const ValidationPlan validation = plan_validation(random->plan, 1 + static_cast<uint32_t>(seed % 3), 7);
    const Simulation& result =
        simulator.run(random->plan, {.iterations = 4, .jitter = 10, .seed = seed, .validation = &validation});
    ASSERT_FALSE(result.deadlock) << simulator.describe_deadlock();
    ASSERT_EQ(result.unfinished_tasks, 0);
    ASSERT_GT(result.validation_s, 0);
  }
  EXPECT_TRUE(completed >= 250 || std::getenv("SKIPPIPE_SEED"));
}

TEST(Simulator, MessagesQueueForTheirLink) {
  Case c = chain();
  c.plan.microbatches.resize(3, c.plan.microbatches[0]);
  c.network.nodes[0].forward_s = 0.125;
  c.network.nodes[1].forward_s = 0;
  assign_priorities(c.plan);
  Simulator simulator(c.network);
  SimulationRecord record;
  simulator.run(c.plan, {.admission = Admission::kAnySlot, .record = &record});
  std::vector<double> starts;
  for (const auto& t : record.transfers)
    if (t.from == 0 && t.kind == SimulationRecord::Transfer::Kind::kForward) starts.push_back(t.start_s);
  // Each waits for the one before it to leave (0.5 s), not for its arrival.
  EXPECT_EQ(starts, (std::vector<double>{0.125, 0.625, 1.125}));
}

// Node 0 sends two microbatches over two links of 0.5 s each.
Case fan() {
  Case c = chain();
  c.network.nodes.push_back(c.network.nodes[1]);
  c.network.links.assign(9, c.network.links[0]);
  c.plan.node_names.push_back("node-2");
  c.plan.node_slots = {3, 3, 3};
  c.plan.stages = {{0}, {1, 2}};
  c.plan.workload.stage_gradient_bytes = {0, 0};
  c.plan.microbatches = {{.visits = {{.node = 0}, {.node = 1}}}, {.visits = {{.node = 0}, {.node = 2}}}};
  assign_priorities(c.plan);
  return c;
}

struct Sent {
  double start_s, end_s;
};
std::vector<Sent> sent_forward(const Case& c) {
  Simulator simulator(c.network);
  SimulationRecord record;
  simulator.run(c.plan, {.admission = Admission::kAnySlot, .record = &record});
  std::vector<Sent> sent;
  for (const auto& t : record.transfers)
    if (t.from == 0 && t.kind == SimulationRecord::Transfer::Kind::kForward) sent.push_back({t.start_s, t.end_s});
  return sent;
}

TEST(Simulator, MessagesQueueForTheUplinkOfTheirSender) {
  Case c = fan();
  c.network.nodes[0].forward_s = 0.125;
  std::vector<Sent> sent = sent_forward(c);
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_DOUBLE_EQ(sent[1].start_s, 0.25) << "each link is its own";
  // 100 bytes take 2 s of the uplink, more than the link's 0.5 s: both hold a message back, and the slower one
  // delivers.
  c.network.nodes[0].uplink_bytes_per_s = 50;
  sent = sent_forward(c);
  EXPECT_DOUBLE_EQ(sent[0].start_s, 0.125);
  EXPECT_DOUBLE_EQ(sent[0].end_s, 0.125 + 2 + 0.25);
  EXPECT_DOUBLE_EQ(sent[1].start_s, 2.125);
  EXPECT_DOUBLE_EQ(sent[1].end_s, 4.125 + 0.25);
  // A fast one is free after 0.1 s, while each link still needs 0.5 s.
  c.network.nodes[0].uplink_bytes_per_s = 1000;
  sent = sent_forward(c);
  EXPECT_DOUBLE_EQ(sent[0].end_s, 0.125 + 0.5 + 0.25);
  EXPECT_DOUBLE_EQ(sent[1].start_s, 0.25) << "its forward pass ends later than the uplink is free";
  // What others send does not matter.
  c.network.nodes[0].uplink_bytes_per_s = 0;
  c.network.nodes[1].uplink_bytes_per_s = 1;
  EXPECT_DOUBLE_EQ(sent_forward(c)[1].end_s, 0.25 + 0.75);
}

TEST(Simulator, ShardsAndNormsShareTheUplink) {
  // Three replicas of the only stage, of which node 0 alone has a visit: two shards of 100 bytes from each, twice.
  Case c = fan();
  c.plan.stages = {{0, 1, 2}};
  c.plan.workload = {.stage_layers = {1}, .stage_gradient_bytes = {300}, .exchange_norm = false};
  c.plan.microbatches = {{.visits = {{.node = 0, .backward_rank = 1}}}};
  assign_priorities(c.plan);
  c.network.nodes[0].uplink_bytes_per_s = 50;
  const double backward_s = 1 + 0.25 + 1.5, step_s = 0.3;
  // Node 0's shards leave its uplink one after the other, and its sums right behind its last shard; node 2's sum, made
  // when node 0's second shard has come, takes no longer than node 0's second sum.
  const double shards_s = backward_s + 4 + 0.25;
  const double sums_s = backward_s + 4 + 4 + 0.25;
  EXPECT_NEAR(Simulator(c.network).run(c.plan).iteration_s, std::max(shards_s + 0.75, sums_s) + step_s, 1e-12);

  // 64 bytes to each of two: the second leaves after 2 x 1.28 s.
  c.plan.workload.stage_gradient_bytes = {0};
  c.plan.workload.exchange_norm = true;
  EXPECT_NEAR(Simulator(c.network).run(c.plan).iteration_s, backward_s + 2 * 64.0 / 50 + 0.25, 1e-12);
}

TEST(Simulator, TheLastNormToArriveCounts) {
  // Node 1 has no visit: its norm leaves at once, but takes longer than all that node 0 does.
  Case c = chain();
  c.plan.workload.exchange_norm = true;
  c.plan.microbatches[0].visits.pop_back();
  c.network.link(1, 0).latency_s = 10;
  Simulator simulator(c.network);
  EXPECT_NEAR(simulator.run(c.plan).iteration_s, 10 + 0.05 + 64.0 / 200 + 1, 1e-12);
}

TEST(Simulator, ReducesByScatterAndGather) {
  // Two replicas of the only stage; gradients of 200 bytes: shards of 100 cross in 0.75 s, twice.
  Case c = chain();
  c.plan.stages = {{0, 1}};
  c.plan.workload = {.stage_layers = {1}, .stage_gradient_bytes = {200}, .exchange_norm = false};
  c.plan.microbatches = {{.visits = {{.node = 0, .backward_rank = 1}}}};
  assign_priorities(c.plan);
  Simulator simulator(c.network);
  // Node 1 has no visit and sends at once; node 0's shard leaves after forward, loss and backward.
  const double start_s = 1 + 0.25 + 1.5;
  const double node_1_sums_s = start_s + 0.75;
  EXPECT_NEAR(simulator.run(c.plan).iteration_s, node_1_sums_s + 0.75 + 0.2, 1e-12);
  EXPECT_EQ(simulator.run(c.plan).bytes_sent, 400);
}

TEST(Simulator, IterationsOverlap) {
  const Case c = test::small_case();
  Simulator simulator(c.network);
  const double single_s = simulator.run(c.plan).iteration_s;
  const Simulation& result = simulator.run(c.plan, {.iterations = 4});
  EXPECT_DOUBLE_EQ(result.iteration_s, single_s);
  EXPECT_LE(result.steady_iteration_s, single_s * (1 + 1e-12));
  EXPECT_GT(result.steady_iteration_s, 0);
}

// What must hold of every run: each visit's tasks once, in order along the path, one task at a time on a node, slots.
void check_record(const Plan& plan, const SimulationRecord& record, uint32_t iterations) {
  std::map<std::tuple<uint32_t, int, int, Work::Kind>, const Work*> tasks;
  std::map<int, double> node_free_s;
  std::map<std::pair<int, int>, std::pair<int, uint32_t>> slot_owner;
  std::vector<Work> work = record.work;
  std::erase_if(work, [](const Work& w) { return w.microbatch < 0; });
  std::stable_sort(work.begin(), work.end(), [](const Work& a, const Work& b) { return a.start_s < b.start_s; });
  for (const Work& w : work) {
    ASSERT_TRUE(tasks.try_emplace({w.iteration, w.node, w.microbatch, w.kind}, &w).second) << "a task ran twice";
    ASSERT_GE(w.start_s, node_free_s[w.node]) << "two tasks at once on node " << w.node;
    node_free_s[w.node] = w.end_s;
    ASSERT_GE(w.slot, 0);
    ASSERT_LT(w.slot, plan.node_slots[static_cast<size_t>(w.node)]);
    const std::pair owner(w.microbatch, w.iteration);
    if (w.kind == Work::Kind::kForward) {
      ASSERT_TRUE(slot_owner.try_emplace({w.node, w.slot}, owner).second) << "slot taken twice on node " << w.node;
    }
    ASSERT_EQ(slot_owner.at({w.node, w.slot}), owner);
    if (w.kind == Work::Kind::kBackward) slot_owner.erase({w.node, w.slot});
  }
  size_t expected = 0;
  for (uint32_t iteration = 0; iteration < iterations; ++iteration) {
    for (size_t m = 0; m < plan.microbatches.size(); ++m) {
      const auto& visits = plan.microbatches[m].visits;
      expected += 2 * visits.size() + 1;
      std::vector<std::pair<int, Work::Kind>> order;
      for (const PlannedVisit& visit : visits) order.emplace_back(visit.node, Work::Kind::kForward);
      order.emplace_back(visits.front().node, Work::Kind::kLoss);
      for (auto visit = visits.rbegin(); visit != visits.rend(); ++visit)
        order.emplace_back(visit->node, Work::Kind::kBackward);
      double last_end_s = 0;
      for (const auto& [node, kind] : order) {
        const auto found = tasks.find({iteration, node, static_cast<int>(m), kind});
        ASSERT_NE(found, tasks.end()) << "a task never ran";
        ASSERT_GE(found->second->start_s, last_end_s) << "microbatch " << m << " out of order";
        last_end_s = found->second->end_s;
      }
    }
  }
  ASSERT_EQ(tasks.size(), expected);
}

TEST(Simulator, RandomPlansFinishWhateverTheTiming) {
  constexpr uint32_t kIterations = 2;
  for (const uint64_t seed : test::seeds(2100)) {
    SCOPED_TRACE(test::replay_command(seed));
    const std::optional<Case> c = test::random_case(seed);
    if (!c) continue;
    Simulator simulator(c->network);
    for (const double jitter : {1.0, 2.0, 10.0}) {
      SimulationRecord record;
      const Simulation& result =
          simulator.run(c->plan, {.iterations = kIterations, .jitter = jitter, .seed = seed, .record = &record});
      ASSERT_FALSE(result.deadlock) << simulator.describe_deadlock();
      check_record(c->plan, record, kIterations);
      if (HasFailure()) return;
    }
  }
}

TEST(Simulator, RankedReplayTakesTheTimeOfThePlanningRun) {
  for (const uint64_t seed : test::seeds(500)) {
    SCOPED_TRACE(test::replay_command(seed));
    const std::optional<Case> c = test::random_case(seed);
    if (!c) continue;
    Simulator simulator(c->network);
    SimulationRecord planned, replayed;
    const double planned_s = simulator.run(c->plan, {.admission = Admission::kAnySlot, .record = &planned}).iteration_s;
    ASSERT_EQ(simulator.run(c->plan, {.record = &replayed}).iteration_s, planned_s);
    ASSERT_EQ(c->plan.predicted.iteration_s, planned_s);
    ASSERT_EQ(planned.work.size(), replayed.work.size());
    for (size_t i = 0; i < planned.work.size(); ++i) {
      ASSERT_EQ(planned.work[i].start_s, replayed.work[i].start_s);
      ASSERT_EQ(planned.work[i].microbatch, replayed.work[i].microbatch);
      ASSERT_EQ(planned.work[i].slot, replayed.work[i].slot);
    }
  }
}

TEST(Simulator, SameSeedSameRun) {
  const Case c = test::small_case();
  Simulator a(c.network), b(c.network);
  EXPECT_EQ(a.run(c.plan, {.jitter = 3, .seed = 5}).iteration_s, b.run(c.plan, {.jitter = 3, .seed = 5}).iteration_s);
  EXPECT_NE(a.run(c.plan, {.jitter = 3, .seed = 5}).iteration_s, b.run(c.plan, {.jitter = 3, .seed = 6}).iteration_s);
}

// So that a run's gradients are the same sums, bit for bit, whatever its timing.
TEST(Simulator, GradientPassesKeepTheirOrderUnderAnyTiming) {
  int reordered = 0;
  for (const uint64_t seed : test::seeds(200)) {
    SCOPED_TRACE(test::replay_command(seed));
    const std::optional<Case> c = test::random_case(seed);
    if (!c) continue;
    Simulator simulator(c->network);
    const auto passes = [&](const SimulationOptions& options) {
      EXPECT_FALSE(simulator.run(c->plan, options).deadlock);
      std::vector<std::pair<int32_t, TaskKind>> all;
      for (int node = 0; node < c->plan.node_count(); ++node)
        for (const auto& [microbatch, kind] : simulator.gradient_passes(node)) all.emplace_back(microbatch, kind);
      return all;
    };
    const auto planned = passes({});
    EXPECT_EQ(passes({.iterations = 2, .jitter = 5, .seed = seed}), planned);
    reordered += simulator.run(c->plan, {.admission = Admission::kAnySlot, .jitter = 5, .seed = seed}).deadlock ||
                 passes({.admission = Admission::kAnySlot, .jitter = 5, .seed = seed}) != planned;
  }
  if (!std::getenv("SKIPPIPE_SEED")) {
    EXPECT_GT(reordered, 50) << "the timings change nothing to begin with";
  }
}

TEST(Simulator, ReportsADeadlock) {
  // Two nodes with one slot each; each microbatch holds one and wants the other.
  Case c = chain();
  c.network.nodes.push_back(c.network.nodes[1]);
  c.network.links.assign(9, {.latency_s = 0.1});
  c.plan.node_names.push_back("node-2");
  c.plan.node_slots = {2, 1, 1};
  c.plan.stages = {{0}, {1}, {2}};
  c.plan.workload.stage_layers = {1, 1, 1};
  c.plan.workload.stage_gradient_bytes = {1, 1, 1};
  c.plan.microbatches = {{.visits = {{.node = 0}, {.node = 1}, {.node = 2}}},
                         {.visits = {{.node = 0}, {.node = 2}, {.node = 1}}}};
  assign_priorities(c.plan);
  Simulator simulator(c.network);
  const Simulation& result = simulator.run(c.plan, {.admission = Admission::kAnySlot});
  EXPECT_TRUE(result.deadlock);
  EXPECT_EQ(result.unfinished_tasks, 14 - 4);
  EXPECT_NE(simulator.describe_deadlock().find("node 'node-1' waits in iteration 0"), std::string::npos);
  EXPECT_FALSE(complete_plan(c.plan, simulator));
}

TEST(Simulator, RefusesPlansOfOtherShape) {
  Case c = chain();
  Simulator simulator(c.network);
  Plan plan = c.plan;
  plan.node_names.push_back("one more");
  EXPECT_THROW(simulator.run(plan), PlanError);
  plan = c.plan;
  plan.workload.stage_layers.pop_back();
  EXPECT_THROW(simulator.run(plan), PlanError);
  plan = c.plan;
  plan.microbatches[0].visits[1].node = 9;
  EXPECT_THROW(simulator.run(plan), PlanError);
}

TEST(Simulator, AllocatesNothingAfterTheFirstRun) {
  const std::optional<Case> c = test::random_case(11);
  ASSERT_TRUE(c.has_value());
  Simulator simulator(c->network);
  for (const uint32_t iterations : {1u, 4u}) {
    simulator.run(c->plan, {.iterations = iterations});
    simulator.run(c->plan, {.admission = Admission::kAnySlot, .iterations = iterations});
    const uint64_t before = test::allocations();
    simulator.run(c->plan, {.iterations = iterations});
    simulator.run(c->plan, {.admission = Admission::kAnySlot, .iterations = iterations});
    simulator.run(c->plan, {.iterations = iterations, .jitter = 1.5, .seed = 3});
    EXPECT_EQ(test::allocations(), before);
  }
}

}  // namespace
}  // namespace skippipe
