// The validator: passes what is valid, catches each kind of hand-made violation.
#include "schedule/plan/validator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "base/random.h"
#include "schedule/machine/ranking.h"
#include "schedule/machine/simulator.h"
#include "schedule/plan/rules.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using test::Case;
using testing::HasSubstr;

// 4 stages of one node with a slot each way more than needed; 3 microbatches over 3 stages each.
Case skipping_case() {
  Case c{.network = test::random_network(3, 4), .plan = {}};
  c.plan.rules = {.skip_ratio = 0.25};
  c.plan.workload = {.activation_bytes = 10, .stage_layers = {1, 1, 1, 1}, .stage_gradient_bytes = {4, 4, 4, 4}};
  for (NetworkNode& node : c.network.nodes) {
    node.slots = 2;
    c.plan.node_names.push_back(node.name);
    c.plan.node_slots.push_back(2);
  }
  c.plan.stages = {{0}, {1}, {2}, {3}};
  for (const auto& [a, b] : {std::pair(1, 2), std::pair(1, 3), std::pair(2, 3)})
    c.plan.microbatches.push_back({.visits = {{.node = 0}, {.node = a}, {.node = b}}});
  assign_priorities(c.plan);
  Simulator simulator(c.network);
  SKP_CHECK(complete_plan(c.plan, simulator));
  return c;
}

// After `change`, exactly the given rule is broken, and the line says `part`.
void expect_broken(const std::function<void(Case&)>& change, const std::string& rule, const std::string& part) {
  Case c = skipping_case();
  change(c);
  const std::vector<Violation> found = validate(c.plan, c.network);
  ASSERT_FALSE(found.empty()) << "expected a violation of " << rule;
  for (const Violation& violation : found) EXPECT_EQ(violation.rule, rule) << violation.what;
  EXPECT_THAT(found.front().what, HasSubstr(part));
  try {
    require_valid(found, "the plan");
    ADD_FAILURE() << "require_valid accepted it";
  } catch (const PlanError& error) {
    EXPECT_THAT(error.what(), HasSubstr("the plan breaks the rule on " + rule + ": "));
  }
}

TEST(Validator, AcceptsValidPlans) {
  const Case c = skipping_case();
  EXPECT_TRUE(validate(c.plan, c.network).empty());
  for (const uint64_t seed : test::seeds(300)) {
    SCOPED_TRACE(test::replay_command(seed));
    const std::optional<Case> random = test::random_case(seed);
    if (!random) continue;
    for (const Violation& violation : validate(random->plan, random->network))
      ADD_FAILURE() << violation.rule << ": " << violation.what;
  }
}

TEST(Validator, CatchesBrokenShapes) {
  expect_broken([](Case& c) { c.plan.stages[2] = {}; }, kShapeRule, "stage 2 has no node");
  expect_broken([](Case& c) { c.plan.stages[2] = {9}; }, kShapeRule, "stage 2 names node 9 of 4");
  expect_broken([](Case& c) { c.plan.stages[2] = {2, 1}; }, kShapeRule, "node 1 is in stages 1 and 2");
  expect_broken([](Case& c) { c.plan.microbatches[1].visits[1].node = -1; }, kShapeRule, "microbatch 1 visits node -1");
  expect_broken([](Case& c) { c.plan.microbatches[1].visits.clear(); }, kShapeRule, "microbatch 1 has an empty path");
  expect_broken([](Case& c) { c.plan.workload.stage_layers.pop_back(); }, kShapeRule, "layers of 3");
}

TEST(Validator, CatchesEachRule) {
  expect_broken([](Case& c) { std::swap(c.plan.stages[0], c.plan.stages[1]); }, kPathStartRule,
                "starts at node 0 of stage 1");
  expect_broken([](Case& c) { c.plan.rules.skip_ratio = 0.5; }, kPathStagesRule, "visits 3 stages, expected 2 of 4");
  expect_broken([](Case& c) { c.plan.rules.max_jump = 1; }, kPathOrderRule, "jumps from stage 1 to 3");
  const auto swap_middle = [](Case& c) {
    std::swap(c.plan.microbatches[0].visits[1], c.plan.microbatches[0].visits[2]);
    std::swap(c.plan.microbatches[1].visits[1], c.plan.microbatches[1].visits[2]);
  };
  expect_broken(
      [&](Case& c) {
        swap_middle(c);
        c.plan.rules.max_swap_distance = 1;
      },
      kPathOrderRule, "from stage 3 back to 1, at most 1");
  expect_broken(
      [&](Case& c) {
        swap_middle(c);
        c.plan.rules.max_swap_distance = 2;
        c.plan.rules.max_swaps = 0;
      },
      kPathOrderRule, "makes 1 swaps, at most 0");
  expect_broken(
      [](Case& c) {
        c.plan.microbatches[2].visits[1] = {
            .node = 1, .rank = 2, .forward_priority = 1, .backward_priority = 7, .backward_rank = 2};
        c.plan.microbatches[0].visits[2].rank = c.plan.microbatches[0].visits[2].backward_rank = 0;
      },
      kExposureRule, "expected a difference of at most 1");
  expect_broken([](Case& c) { c.network.nodes[2].slots = 5; }, kSlotsRule, "2 slots in the plan and 5 in the network");
  expect_broken([](Case& c) { c.plan.node_slots[2] = c.network.nodes[2].slots = 0; }, kSlotsRule, "0 slots");
  expect_broken(
      [](Case& c) {
        c.plan.microbatches[0].visits[0].rank = 1;
        c.plan.microbatches[1].visits[0].rank = 1;
      },
      kRanksRule, "node 0");
  expect_broken([](Case& c) { c.plan.microbatches[0].visits[0].rank = -5; }, kRanksRule, "-5");
  expect_broken([](Case& c) { c.plan.microbatches[0].loss_rank = 7; }, kRanksRule, "gradient passes of node 0");
  expect_broken(
      [](Case& c) { std::swap(c.plan.microbatches[0].loss_rank, c.plan.microbatches[0].visits[0].backward_rank); },
      kDeadlockRule, "the loss of microbatch 0 never runs on node 0");
  expect_broken(
      [](Case& c) { c.plan.microbatches[0].loss_priority = c.plan.microbatches[1].visits[0].forward_priority; },
      kPrioritiesRule, "node 0 has two tasks");
  expect_broken([](Case& c) { c.network.nodes[1].name = "other"; }, kNetworkRule, "'other'");
  expect_broken([](Case& c) { c.network.nodes.pop_back(); }, kNetworkRule, "4 nodes, the network has 3");
}

// Only where the rules ask for it, and then as equal as the number of microbatches allows.
TEST(Validator, CatchesUnequalData) {
  const auto found = [](bool equal_data, const std::vector<int>& data_nodes) {
    Case c{.network = test::random_network(3, 3), .plan = {}};
    c.plan.rules.equal_data = equal_data;
    c.plan.workload = {.stage_layers = {1, 1}, .stage_gradient_bytes = {4, 4}};
    for (const NetworkNode& node : c.network.nodes) {
      c.plan.node_names.push_back(node.name);
      c.plan.node_slots.push_back(node.slots);
    }
    c.plan.stages = {{0, 1}, {2}};
    for (const int node : data_nodes) c.plan.microbatches.push_back({.visits = {{.node = node}, {.node = 2}}});
    assign_priorities(c.plan);
    Simulator simulator(c.network);
    SKP_CHECK(complete_plan(c.plan, simulator));
    return validate(c.plan, c.network);
  };
  EXPECT_TRUE(found(false, {1, 1, 1}).empty());
  EXPECT_TRUE(found(true, {1, 0, 1}).empty());
  const std::vector<Violation> unequal = found(true, {1, 1, 1});
  ASSERT_EQ(unequal.size(), 1u);
  EXPECT_EQ(unequal[0].rule, kDataRule);
  EXPECT_EQ(unequal[0].what,
            "data node 0 starts 0 microbatches and data node 1 starts 3, expected a difference of at most 1");
}

// Equal exposure or not: a stage in no path would never be trained.
TEST(Validator, CatchesStagesInNoPath) {
  for (const bool equal_exposure : {true, false}) {
    test::Case c = test::small_case();
    c.plan.rules = {.skip_ratio = 0.5, .equal_exposure = equal_exposure};
    for (PlannedMicrobatch& microbatch : c.plan.microbatches) microbatch.visits.pop_back();
    assign_priorities(c.plan);
    Simulator simulator(c.network);
    ASSERT_TRUE(complete_plan(c.plan, simulator));
    const std::vector<Violation> found = validate(c.plan, c.network);
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].rule, kExposureRule);
    EXPECT_EQ(found[0].what,
              "stage 1 is in the path of no microbatch and would never be trained, expected every stage in one: plan "
              "with a lower --skip or more --microbatches");
  }
  // Most of four stages, one of them without a microbatch: unequal is allowed, none is not.
  Case c = skipping_case();
  c.plan.rules.equal_exposure = false;
  c.plan.microbatches.resize(1);
  assign_priorities(c.plan);
  Simulator simulator(c.network);
  ASSERT_TRUE(complete_plan(c.plan, simulator));
  const std::vector<Violation> found = validate(c.plan);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_THAT(found[0].what, HasSubstr("stage 3 is in the path of no microbatch"));
}

// An embedding alone may be stage 0.
TEST(Validator, LetsStageZeroAloneHaveNoLayers) {
  Case c = skipping_case();
  c.plan.workload.stage_layers[0] = 0;
  EXPECT_TRUE(validate(c.plan).empty());
  expect_broken([](Case& broken) { broken.plan.workload.stage_layers[2] = 0; }, kShapeRule,
                "stage 2 has 0 layers, expected at least 1");
}

TEST(Validator, CatchesAStageVisitedTwice) {
  Case c = skipping_case();
  c.plan.microbatches[0].visits[2].node = c.plan.microbatches[0].visits[1].node;
  const std::vector<Violation> found = validate(c.plan);
  EXPECT_TRUE(std::any_of(found.begin(), found.end(), [](const Violation& v) {
    return v.rule == kPathStagesRule && v.what.find("visits stage 1 twice") != std::string::npos;
  }));
}

// With one slot, a microbatch of rank 1 must wait for the other; ranks in opposite order on two nodes never resolve.
TEST(Validator, CatchesDeadlocks) {
  const auto cross = [](Case& c) {
    c.plan.node_slots.assign(4, 1);
    for (NetworkNode& node : c.network.nodes) node.slots = 1;
    c.plan.node_slots[0] = c.network.nodes[0].slots = 3;
    // Node 1 serves microbatches 0 and 1, node 3 serves 1 and 2, node 2 serves 0 and 2: a cycle of three.
    c.plan.microbatches[0].visits[1].rank = 1;  // node 1: 1 before 0
    c.plan.microbatches[1].visits[1].rank = 0;
    c.plan.microbatches[0].visits[2].rank = 0;  // node 2: 0 before 2
    c.plan.microbatches[2].visits[1].rank = 1;
    c.plan.microbatches[1].visits[2].rank = 1;  // node 3: 2 before 1
    c.plan.microbatches[2].visits[2].rank = 0;
  };
  expect_broken(cross, kDeadlockRule,
                "microbatch 0 never enters node 1: its rank 1 needs 1 ended visits (1 slots), 0 can end");
}

void shuffle_gradient_ranks(Plan& plan, int node, Random& random) {
  std::vector<int*> ranks;
  for (PlannedMicrobatch& microbatch : plan.microbatches) {
    if (microbatch.data_node() == node) ranks.push_back(&microbatch.loss_rank);
    for (PlannedVisit& visit : microbatch.visits)
      if (visit.node == node) ranks.push_back(&visit.backward_rank);
  }
  random.shuffle(ranks);
  for (size_t i = 0; i < ranks.size(); ++i) *ranks[i] = static_cast<int>(i);
}

// The validator's verdict on random ranks is what happens in the simulator, whatever the timing.
TEST(Validator, AgreesWithTheSimulatorOnDeadlocks) {
  int stuck = 0;
  for (const uint64_t seed : test::seeds(1000)) {
    SCOPED_TRACE(test::replay_command(seed));
    std::optional<Case> c = test::random_case(seed);
    if (!c) continue;
    Random random(seed, {9});
    for (int node = 0; node < c->plan.node_count(); ++node) {
      std::vector<PlannedVisit*> visits;
      for (PlannedMicrobatch& microbatch : c->plan.microbatches)
        for (PlannedVisit& visit : microbatch.visits)
          if (visit.node == node) visits.push_back(&visit);
      random.shuffle(visits);
      for (size_t i = 0; i < visits.size(); ++i) visits[i]->rank = static_cast<int>(i);
      if (seed % 2 == 0) shuffle_gradient_ranks(c->plan, node, random);
    }
    const std::vector<Violation> found = validate(c->plan, c->network);
    Simulator simulator(c->network);
    const bool deadlock = simulator.run(c->plan, {.jitter = 5, .seed = seed}).deadlock;
    ASSERT_EQ(!found.empty(), deadlock);
    stuck += deadlock;
  }
  if (!std::getenv("SKIPPIPE_SEED")) {
    EXPECT_GT(stuck, 20);
  }
}

}  // namespace
}  // namespace skippipe
