// Re-planning: whoever survives stays where it is, every rule still holds, and the search never makes it worse.
#include "schedule/search/replanning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "schedule/machine/ranking.h"
#include "schedule/machine/simulator.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "tests/expect_error.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const SearchBudget kNoSearch = {.evaluations = 0};
const SearchBudget kShortSearch = {.evaluations = 100};

PlanRequest make_request(uint64_t seed, int nodes, int stages, int microbatches) {
  PlanRequest request;
  request.network = test::random_network(seed, nodes);
  request.rules.skip_ratio = 1.0 / 3;
  request.workload.activation_bytes = 1 << 20;
  request.workload.stage_layers.assign(static_cast<size_t>(stages), 1);
  request.workload.stage_gradient_bytes.assign(static_cast<size_t>(stages), 1 << 20);
  request.microbatches = microbatches;
  request.seed = seed;
  request.budget.evaluations = 100;
  return request;
}

// The network without some nodes, the others in reverse order, and `more` new ones.
Network changed_network(const Network& network, const std::set<std::string>& gone, int more, uint64_t seed) {
  std::vector<int> kept;
  for (int node = network.size() - 1; node >= 0; --node)
    if (!gone.contains(network.nodes[static_cast<size_t>(node)].name)) kept.push_back(node);
  const auto count = static_cast<int>(kept.size());
  Network result = test::random_network(seed + 1000, count + more);
  for (int i = 0; i < count; ++i) {
    result.nodes[static_cast<size_t>(i)] = network.nodes[static_cast<size_t>(kept[static_cast<size_t>(i)])];
    for (int j = 0; j < count; ++j)
      result.link(i, j) = network.link(kept[static_cast<size_t>(i)], kept[static_cast<size_t>(j)]);
  }
  for (int i = 0; i < more; ++i) result.nodes[static_cast<size_t>(count + i)].name = fmt::format("new-{}", i);
  return result;
}

std::map<std::string, int> stages_by_name(const Plan& plan) {
  std::map<std::string, int> stages;
  const std::vector<int> stage_of = plan.stage_of_nodes();
  for (size_t node = 0; node < stage_of.size(); ++node) stages[plan.node_names[node]] = stage_of[node];
  return stages;
}

// Some of a plan's nodes, never the last one of a stage.
std::set<std::string> draw_gone(const Plan& plan, Random& random) {
  std::set<std::string> gone;
  for (const std::vector<int>& replicas : plan.stages) {
    size_t left = replicas.size();
    for (const int node : replicas)
      if (left > 1 && random.below(3) == 0) {
        gone.insert(plan.node_names[static_cast<size_t>(node)]);
        --left;
      }
  }
  return gone;
}

void expect_valid(const Plan& plan, const Network& network) {
  for (const Violation& violation : validate(plan, network)) ADD_FAILURE() << violation.rule << ": " << violation.what;
  Simulator simulator(network);
  EXPECT_EQ(simulator.run(plan).iteration_s, plan.predicted.iteration_s);
  test::expect_nobody_idle(plan, network);
}

// Of every plan: survivors stay or, visited by no path, leave; those that are gone are out, and the batch is the same.
void expect_kept(const Plan& old, const Plan& plan, const std::set<std::string>& gone) {
  EXPECT_EQ(plan.microbatches.size(), old.microbatches.size());
  std::map<std::string, int> stages = stages_by_name(plan);
  for (const auto& [name, stage] : stages_by_name(old)) {
    if (gone.contains(name)) {
      EXPECT_TRUE(!stages.contains(name) || stages[name] == -1) << name;
    } else if (stage >= 0 && stages[name] != -1) {
      EXPECT_EQ(stages[name], stage) << name;
    }
  }
}

void expect_same(const Plan& a, const Plan& b) {
  EXPECT_EQ(a.stages, b.stages);
  EXPECT_EQ(a.predicted.iteration_s, b.predicted.iteration_s);
  ASSERT_EQ(a.microbatches.size(), b.microbatches.size());
  for (size_t m = 0; m < a.microbatches.size(); ++m)
    EXPECT_TRUE(std::ranges::equal(a.microbatches[m].visits, b.microbatches[m].visits, {}, &PlannedVisit::node,
                                   &PlannedVisit::node));
}

// Plans of every kind, and losses of every kind that leaves each stage a node.
void check_losses(const Network& network, const Plan& old, uint64_t seed) {
  Random random(seed, {9});
  const std::set<std::string> gone = draw_gone(old, random);
  ReplanOptions options = {.gone = {gone.begin(), gone.end()}, .budget = kNoSearch, .seed = seed};
  const PlanResult repaired = replan(old, network, options);
  ASSERT_TRUE(repaired.plan) << repaired.rule << ": " << repaired.why;
  expect_valid(*repaired.plan, network);
  expect_kept(old, *repaired.plan, gone);
  EXPECT_EQ(repaired.plan->node_names, old.node_names) << "indices are stable";

  options.budget = kShortSearch;
  const PlanResult searched = replan(old, network, options);
  ASSERT_TRUE(searched.plan) << searched.rule << ": " << searched.why;
  expect_valid(*searched.plan, network);
  expect_kept(old, *searched.plan, gone);
  EXPECT_LE(searched.plan->predicted.iteration_s, repaired.plan->predicted.iteration_s);
  expect_same(*searched.plan, *replan(old, network, options).plan);
}

// Others join at the same time, in a network of another order.
void check_new_network(const Network& network, const Plan& old, uint64_t seed) {
  Random random(seed, {10});
  const std::set<std::string> gone = draw_gone(old, random);
  const int more = static_cast<int>(random.below(4));
  const Network changed = changed_network(network, gone, more, seed);
  const PlanResult result = replan(old, changed, {.budget = kShortSearch, .seed = seed});
  ASSERT_TRUE(result.plan) << result.rule << ": " << result.why;
  expect_valid(*result.plan, changed);
  expect_kept(old, *result.plan, gone);
  const PlanChange change = compare_plans(old, *result.plan);
  EXPECT_THAT(change.moved, IsEmpty());
  EXPECT_EQ(std::ranges::count_if(change.gone, [&](const auto& node) { return gone.contains(node.name); }),
            std::ssize(gone));
  EXPECT_EQ(used_nodes(*result.plan).size() + change.gone.size(), used_nodes(old).size() + change.joined.size())
      << "nobody is forgotten";
}

TEST(Replanning, KeepsPlansOfAllMethodsValid) {
  int plans = 0;
  for (const uint64_t seed : test::seeds(25)) {
    SCOPED_TRACE(test::replay_command(seed));
    Random random(seed, {8});
    const int stages = 1 + static_cast<int>(random.below(6));
    const int nodes = stages + static_cast<int>(random.below(10));
    PlanRequest request = make_request(seed, nodes, stages, 1 + static_cast<int>(random.below(12)));
    request.rules.equal_exposure = random.below(3) > 0;
    request.rules.equal_data = random.below(2) == 0;
    for (const std::string& method : planning_methods()) {
      SCOPED_TRACE(method);
      const PlanResult old = make_planner(method)->plan(request);
      if (!old.plan) continue;
      ++plans;
      check_losses(request.network, *old.plan, seed);
      check_new_network(request.network, *old.plan, seed);
    }
  }
  EXPECT_GT(plans, 0);
}

// Also paths that no planner would choose.
TEST(Replanning, KeepsRandomPlansValid) {
  int plans = 0;
  for (const uint64_t seed : test::seeds(300)) {
    SCOPED_TRACE(test::replay_command(seed));
    const auto found = test::random_case(seed);
    if (!found) continue;
    ++plans;
    check_losses(found->network, found->plan, seed);
    check_new_network(found->network, found->plan, seed);
  }
  EXPECT_GT(plans, 0);
}

TEST(Replanning, AddsANodeToTheBusiestStage) {
  test::Case base = test::small_case();
  for (NetworkNode& node : base.network.nodes) node.forward_s = 0.1;
  for (Link& link : base.network.links) link = {.latency_s = 0.001};
  base.plan.workload.stage_layers = {1, 8};
  const Network grown = [&] {
    Network network = changed_network(base.network, {}, 1, 1);
    network.nodes.back() = base.network.nodes.front();
    network.nodes.back().name = "new";
    network.nodes.back().forward_s = 0.02;
    for (Link& link : network.links) link = {.latency_s = 0.001};
    return network;
  }();
  const PlanResult result = replan(base.plan, grown, {.budget = kNoSearch});
  ASSERT_TRUE(result.plan);
  EXPECT_EQ(stages_by_name(*result.plan)["new"], 1);
  EXPECT_GT(compare_plans(base.plan, *result.plan).moved_visits, 0);

  const PlanResult told = replan(base.plan, grown, {.places = {{"new", 0}}, .budget = kNoSearch});
  ASSERT_TRUE(told.plan);
  EXPECT_EQ(stages_by_name(*told.plan)["new"], 0);
  EXPECT_LT(result.plan->predicted.iteration_s, told.plan->predicted.iteration_s);
}

// Of the old plan's nodes those leave that no path visits, but where they are told to be there.
TEST(Replanning, LeavesOutWhomNoPathVisits) {
  test::Case base = test::small_case();
  base.plan.workload.stage_gradient_bytes = {1 << 24, 1 << 24};
  for (PlannedMicrobatch& microbatch : base.plan.microbatches) microbatch.visits[1].node = base.plan.stages[1][0];
  Simulator simulator(base.network);
  ASSERT_TRUE(complete_plan(base.plan, simulator));
  const std::string idle = base.plan.node_names[static_cast<size_t>(base.plan.stages[1][1])];
  const PlanResult result = replan(base.plan, base.network, {.budget = kNoSearch});
  ASSERT_TRUE(result.plan);
  expect_valid(*result.plan, base.network);
  EXPECT_EQ(stages_by_name(*result.plan)[idle], -1);
  EXPECT_LE(result.plan->predicted.iteration_s, base.plan.predicted.iteration_s);
  const PlanResult told = replan(base.plan, base.network, {.places = {{idle, 1}}, .budget = kNoSearch});
  ASSERT_TRUE(told.plan);
  EXPECT_EQ(stages_by_name(*told.plan)[idle], 1);
}

TEST(Replanning, LeavesANodeUnusedThatSlowsEveryStage) {
  const test::Case base = test::small_case();
  Network grown = changed_network(base.network, {}, 1, 1);
  for (int node = 0; node < 4; ++node) grown.link(4, node).latency_s = grown.link(node, 4).latency_s = 1000;
  const PlanResult result = replan(base.plan, grown, {.budget = kNoSearch});
  ASSERT_TRUE(result.plan);
  EXPECT_THAT(compare_plans(base.plan, *result.plan).unused, ElementsAre("new-0"));
}

// Those who were gone come back to where they help, and a spare one takes the place of the last replica.
TEST(Replanning, TakesBackWhoeverIsThere) {
  const test::Case base = test::small_case();
  const PlanResult without = replan(base.plan, base.network, {.gone = {"node-3"}, .budget = kNoSearch});
  ASSERT_TRUE(without.plan);
  EXPECT_EQ(stages_by_name(*without.plan)["node-3"], -1);
  const PlanResult still = replan(*without.plan, base.network, {.gone = {"node-3", "node-0"}, .budget = kNoSearch});
  ASSERT_TRUE(still.plan);
  EXPECT_EQ(stages_by_name(*still.plan)["node-3"], -1);
  const PlanResult back = replan(*without.plan, base.network, {.gone = {"node-2"}, .budget = kNoSearch});
  ASSERT_TRUE(back.plan) << back.why;
  EXPECT_EQ(stages_by_name(*back.plan)["node-3"], 1) << "the only one that can hold it";
}

TEST(Replanning, MovesASurvivorOnlyIfItMay) {
  test::Case base = test::small_case();
  ReplanOptions options = {.gone = {"node-2", "node-3"}, .budget = kShortSearch};
  const PlanResult stuck = replan(base.plan, base.network, options);
  EXPECT_FALSE(stuck.plan);
  EXPECT_EQ(stuck.rule, kStageNodesRule);
  EXPECT_EQ(stuck.why, "stage 1 has no node left without 'node-2', 'node-3', and no node that joins can hold it");

  options.may_move = true;
  const PlanResult moved = replan(base.plan, base.network, options);
  ASSERT_TRUE(moved.plan) << moved.why;
  expect_valid(*moved.plan, base.network);
  EXPECT_EQ(compare_plans(base.plan, *moved.plan).moved.size(), 1u);

  options.may_move = false;
  options.places = {{"node-0", 1}};
  const PlanResult told = replan(base.plan, base.network, options);
  ASSERT_TRUE(told.plan) << told.why;
  expect_valid(*told.plan, base.network);
  EXPECT_EQ(stages_by_name(*told.plan),
            (std::map<std::string, int>{{"node-0", 1}, {"node-1", 0}, {"node-2", -1}, {"node-3", -1}}));

  const PlanResult nobody =
      replan(base.plan, base.network, {.gone = {"node-0", "node-2", "node-1", "node-3"}, .may_move = true});
  EXPECT_FALSE(nobody.plan);
  EXPECT_EQ(nobody.rule, kStageNodesRule);
  EXPECT_THAT(nobody.why, HasSubstr("stage 0 has no node left without 'node-0', 'node-1', and no node that joins or "
                                    "that another stage can spare"));
}

// Several stages lose all; any survivor may go to any of them.
TEST(Replanning, FillsEveryEmptyStage) {
  for (const uint64_t seed : test::seeds(20)) {
    SCOPED_TRACE(test::replay_command(seed));
    const PlanRequest request = make_request(seed, 12, 4, 8);
    const PlanResult old = make_planner("full")->plan(request);
    ASSERT_TRUE(old.plan);
    ReplanOptions options = {.may_move = true, .budget = kNoSearch};
    for (const size_t stage : {0, 2})
      for (const int node : old.plan->stages[stage]) options.gone.push_back(fmt::format("node-{}", node));
    const PlanResult result = replan(*old.plan, request.network, options);
    ASSERT_TRUE(result.plan) << result.why;
    expect_valid(*result.plan, request.network);
    EXPECT_EQ(compare_plans(*old.plan, *result.plan).moved.size(), 2u);
    options.may_move = false;
    const Network grown = changed_network(request.network, {options.gone.begin(), options.gone.end()}, 2, seed);
    const PlanResult joined = replan(*old.plan, grown, options);
    ASSERT_TRUE(joined.plan) << joined.why;
    expect_valid(*joined.plan, grown);
    EXPECT_EQ(compare_plans(*old.plan, *joined.plan).joined.size(), 2u);
  }
}

TEST(Replanning, HoldsStagesInTheMemoryThatThereIs) {
  test::Case base = test::small_case();
  base.plan.workload.stage_state_bytes = {100, 1000};
  base.plan.workload.stage_slot_bytes = {10, 10};
  Network grown = changed_network(base.network, {"node-2"}, 1, 2);
  NetworkNode& last = grown.nodes.back();
  last.slots_from_memory = true;
  last.memory_bytes = 200;
  const PlanResult small = replan(base.plan, grown, {.gone = {"node-3"}});
  EXPECT_EQ(small.rule, kStageNodesRule) << "no room for stage 1";
  const PlanResult told = replan(base.plan, grown, {.places = {{"new-0", 1}}});
  EXPECT_FALSE(told.plan);
  EXPECT_EQ(told.rule, kSlotsRule);
  EXPECT_THAT(told.why, HasSubstr("node 'new-0' can't hold stage 1"));
  const PlanResult free = replan(base.plan, grown, {.budget = kShortSearch});
  ASSERT_TRUE(free.plan) << free.why;
  expect_valid(*free.plan, grown);
  last.memory_bytes = 2000;
  const PlanResult filled = replan(base.plan, grown, {.gone = {"node-3"}});
  ASSERT_TRUE(filled.plan) << filled.why;
  expect_valid(*filled.plan, grown);
  EXPECT_EQ(stages_by_name(*filled.plan)["new-0"], 1);
}

TEST(Replanning, RefusesWhatMakesNoSense) {
  const test::Case base = test::small_case();
  const auto refuses = [&](const std::string& part, const std::function<void(test::Case&, ReplanOptions&)>& change) {
    test::Case changed = base;
    ReplanOptions options;
    change(changed, options);
    SKP_EXPECT_ERROR((void)replan(changed.plan, changed.network, options), Error, part);
  };
  refuses("gone: 'x' is a node neither of the plan nor", [](auto&, ReplanOptions& o) { o.gone = {"x"}; });
  refuses("gone: two nodes are named 'node-1'", [](auto&, ReplanOptions& o) { o.gone = {"node-1", "node-1"}; });
  refuses("place of 'x': the network has no such", [](auto&, ReplanOptions& o) { o.places = {{"x", 0}}; });
  refuses("place of 'node-1': found stage 2, expected 0 to 1", [](auto&, ReplanOptions& o) { o.places["node-1"] = 2; });
  refuses("place of 'node-1': the node is gone", [](auto&, ReplanOptions& o) {
    o.gone = {"node-1"};
    o.places["node-1"] = 1;
  });
  refuses("plan: two nodes are named 'node-0'", [](test::Case& c, auto&) { c.plan.node_names[1] = "node-0"; });
  refuses("network: two nodes are named 'node-0'", [](test::Case& c, auto&) { c.network.nodes[1].name = "node-0"; });
  refuses("the plan to begin from breaks the rule on the start of a path",
          [](test::Case& c, auto&) { std::ranges::reverse(c.plan.microbatches[0].visits); });
  refuses("links: found 15", [](test::Case& c, auto&) { c.network.links.pop_back(); });
  refuses("0 threads, expected", [](auto&, ReplanOptions& o) { o.budget = SearchBudget{.threads = 0}; });
}

}  // namespace
}  // namespace skippipe
