// Slots that follow from memory: what a node has in each stage, plans that go by it, and what says that nothing fits.
#include "schedule/search/capacity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "tests/expect_error.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using testing::HasSubstr;

constexpr int64_t kGigabyte = 1'000'000'000;

// Nodes of 8 GB, of which a stage may take 6; stage 0 takes 3 GB and 1 per slot, each other stage 1 GB and 2 per slot.
PlanRequest request_of(int nodes, int stages) {
  PlanRequest request;
  request.network = test::random_network(1, nodes);
  for (NetworkNode& node : request.network.nodes) {
    node.slots = 3;
    node.slots_from_memory = true;
    node.memory_bytes = 8 * kGigabyte;
  }
  const auto count = static_cast<size_t>(stages);
  request.workload.stage_layers.assign(count, 1);
  request.workload.stage_gradient_bytes.assign(count, 1000);
  request.workload.stage_state_bytes.assign(count, kGigabyte);
  request.workload.stage_slot_bytes.assign(count, 2 * kGigabyte);
  request.workload.stage_state_bytes[0] = 3 * kGigabyte;
  request.workload.stage_slot_bytes[0] = kGigabyte;
  request.rules.skip_ratio = 1.0 / 3;
  request.microbatches = 8;
  request.budget.evaluations = 300;
  return request;
}

TEST(Capacity, SlotsAreWhatTheStageLeavesOfTheMemory) {
  PlanRequest request = request_of(4, 3);
  EXPECT_EQ(slots_in_stage(request, 0, 0), 3);
  EXPECT_EQ(slots_in_stage(request, 0, 1), 2);
  request.network.nodes[1].memory_bytes = 4 * kGigabyte;
  EXPECT_EQ(slots_in_stage(request, 1, 0), 0);
  EXPECT_EQ(slots_in_stage(request, 1, 1), 1);
  request.network.nodes[2].memory_bytes = 1'000'000 * kGigabyte;
  EXPECT_EQ(slots_in_stage(request, 2, 0), 8) << "one for each microbatch";
  request.microbatches = 1 << 16;
  EXPECT_EQ(slots_in_stage(request, 2, 0), kMaxSlots);
  request.network.nodes[3].slots_from_memory = false;
  EXPECT_EQ(slots_in_stage(request, 3, 0), 3) << "its own number";
  EXPECT_EQ(slots_in_stage(request, 3, 1), 2) << "the memory has no room for 3 of this stage";
  request.network.nodes[3].slots = 1;
  EXPECT_EQ(slots_in_stage(request, 3, 0), 1) << "more would fit";
  request.network.nodes[3].memory_bytes = kGigabyte;
  EXPECT_EQ(slots_in_stage(request, 3, 0), 0) << "no number makes it fit";
  request.network.nodes[3].memory_bytes = 0;
  EXPECT_EQ(slots_in_stage(request, 3, 0), 1) << "nobody says what the node has";
  request.workload.stage_state_bytes.clear();
  request.workload.stage_slot_bytes.clear();
  EXPECT_EQ(slots_in_stage(request, 1, 0), 3) << "nobody says what a stage takes";
}

// The copy of weights and moments from which checkpoints are written, three times the gradients, is on the host.
TEST(Capacity, GpusNeedNoMemoryForCheckpoints) {
  PlanRequest request = request_of(4, 3);
  request.workload.stage_gradient_bytes.assign(3, kGigabyte / 2);
  request.network.nodes[0].device = "cuda:0";
  EXPECT_EQ(slots_in_stage(request, 0, 0), 4) << "1.5 GB of state and 6 to have";
  EXPECT_EQ(slots_in_stage(request, 1, 0), 3);
  request.network.nodes[0].memory_bytes = 4 * kGigabyte;
  EXPECT_EQ(slots_in_stage(request, 0, 0), 1);
  request.workload.stage_slot_bytes[0] = 2 * kGigabyte;
  request.network.nodes[1].memory_bytes = request.network.nodes[2].memory_bytes = 4 * kGigabyte;
  const auto refused = check_capacity(request);
  EXPECT_FALSE(refused) << refused->why << ": node-3 can hold stage 0, the GPU stage 2";
}

// Written by hand or by a probe: memory counts wherever it is known.
TEST(Capacity, WrittenSlotsGoByMemoryToo) {
  PlanRequest request = request_of(6, 3);
  for (NetworkNode& node : request.network.nodes) {
    node.slots_from_memory = false;
    node.slots = 4;
  }
  const PlanResult result = make_planner("joint")->plan(request);
  ASSERT_TRUE(result.plan) << result.why;
  for (size_t stage = 0; stage < 3; ++stage)
    for (const int node : result.plan->stages[stage])
      EXPECT_EQ(result.plan->node_slots[static_cast<size_t>(node)], stage == 0 ? 3 : 2);
  EXPECT_THAT(validate(*result.plan, request.network), testing::IsEmpty());
  Network strict = request.network;
  for (NetworkNode& node : strict.nodes) node.slots = 1;
  const std::vector<Violation> found = validate(*result.plan, strict);
  ASSERT_FALSE(found.empty());
  EXPECT_THAT(found[0].what, HasSubstr("slots in the plan and 1 in the network"));

  // As many as three quarters of the memory hold; or one, if all of it holds that.
  for (NetworkNode& node : request.network.nodes) node.memory_bytes = 4 * kGigabyte;
  const PlanResult full = make_planner("joint")->plan(request);
  ASSERT_TRUE(full.plan) << full.why;
  for (const int node : full.plan->stages[0]) EXPECT_EQ(full.plan->node_slots[static_cast<size_t>(node)], 1);
  EXPECT_THAT(validate(*full.plan, request.network), testing::IsEmpty());
  for (NetworkNode& node : request.network.nodes) node.memory_bytes = 3 * kGigabyte;
  EXPECT_THAT(make_planner("joint")->plan(request).why, HasSubstr("no node can hold stage 0"));
}

TEST(Capacity, PlansGoByMemory) {
  PlanRequest request = request_of(6, 3);
  for (const int node : {0, 2, 3, 5}) request.network.nodes[static_cast<size_t>(node)].memory_bytes = 4 * kGigabyte;
  for (const char* method : {"full", "joint"}) {
    const PlanResult result = make_planner(method)->plan(request);
    ASSERT_TRUE(result.plan) << method << ": " << result.why;
    EXPECT_THAT(result.plan->stages[0], testing::UnorderedElementsAre(1, 4)) << "the only ones with room for stage 0";
    EXPECT_EQ(result.plan->node_slots, (std::vector<int>{1, 3, 1, 1, 3, 1}));
    EXPECT_THAT(validate(*result.plan, request.network), testing::IsEmpty());

    Plan greedy = *result.plan;
    greedy.node_slots[1] = 4;
    const std::vector<Violation> found = validate(greedy, request.network);
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].rule, kSlotsRule);
    EXPECT_THAT(found[0].what, HasSubstr("stage 0 then takes 7000000000 bytes"));
  }
}

TEST(Capacity, SaysWhatDoesNotFit) {
  const auto refuses = [](const PlanRequest& request, const std::string& why) {
    const PlanResult result = make_planner("joint")->plan(request);
    EXPECT_FALSE(result.plan.has_value());
    EXPECT_EQ(result.rule, kSlotsRule);
    EXPECT_THAT(result.why, HasSubstr(why));
  };
  PlanRequest request = request_of(6, 3);
  request.workload.stage_state_bytes[2] = 8 * kGigabyte;
  request.workload.stage_slot_bytes[2] = kGigabyte / 2;
  refuses(request,
          "no node can hold stage 2: it needs 7.45 GiB of state and 476.84 MiB per slot, the largest, 'node-0', has "
          "5.59 GiB for both (75 % of its 7.45 GiB): with more stages each takes less");
  request.workload.stage_state_bytes[2] = 6 * kGigabyte;
  refuses(request, "--recompute or fewer --samples take less per slot");
  request = request_of(6, 3);
  for (size_t node = 1; node < 6; ++node) request.network.nodes[node].memory_bytes = 4 * kGigabyte;
  EXPECT_EQ(make_planner("joint")->plan(request).plan.value().stages[0], std::vector<int>{0});
  request.nodes_per_stage = {2, 2, 2};
  refuses(request, "1 nodes can hold stage 0 (it needs 2.79 GiB of state and 953.67 MiB per slot), expected 2");
  request.nodes_per_stage.clear();
  request.stages = {{0}, {1, 2}, {3, 4, 5}};
  request.network.nodes[4].memory_bytes = kGigabyte;
  refuses(
      request,
      "node 'node-4' can't hold stage 2: it needs 953.67 MiB of state and 1.86 GiB per slot, the node has 715.26 MiB");
  request.network.nodes[4].memory_bytes = 4 * kGigabyte;
  EXPECT_TRUE(make_planner("full")->plan(request).plan);
}

// A link a thousand times slower than the others is kept out of stages, unless the reduction over it is simulated.
TEST(Capacity, OutlyingLinksAreKeptOutOfStages) {
  PlanRequest request = request_of(6, 3);
  for (Link& link : request.network.links) link = {.latency_s = 0.1};
  for (const int other : {1, 2, 3, 4, 5}) request.network.link(0, other) = {.latency_s = other == 5 ? 0.1 : 100};
  EXPECT_EQ(default_replica_delay_s(request.network, request.workload), INFINITY);
  request.workload.stage_gradient_bytes.assign(3, 0);
  request.max_replica_delay_s = default_replica_delay_s(request.network, request.workload);
  EXPECT_DOUBLE_EQ(request.max_replica_delay_s, 1);
  request.nodes_per_stage = {2, 2, 2};
  for (NetworkNode& node : request.network.nodes) node.slots_from_memory = false;
  for (const std::string& method : planning_methods()) {
    const PlanResult result = make_planner(method)->plan(request);
    ASSERT_TRUE(result.plan) << method << ": " << result.why;
    EXPECT_THAT(result.plan->stages, testing::Contains(std::vector<int>{0, 5})) << method;
  }
}

TEST(Capacity, RefusesListsThatMakeNoSense) {
  PlanRequest request = request_of(6, 3);
  request.workload.stage_state_bytes.pop_back();
  SKP_EXPECT_ERROR((void)make_planner("joint")->plan(request), ConfigError, "stage_state_bytes of 2 stages");
  request = request_of(6, 3);
  request.workload.stage_slot_bytes[1] = -1;
  SKP_EXPECT_ERROR((void)make_planner("joint")->plan(request), ConfigError, "stage_slot_bytes: found -1");
}

}  // namespace
}  // namespace skippipe
