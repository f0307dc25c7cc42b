// A search's changes are within the rules, whatever it changes how often.
#include "schedule/search/moves.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "schedule/machine/ranking.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "schedule/search/planning.h"
#include "tests/schedule/random_plans.h"

namespace skippipe {
namespace {

TEST(Moves, KeepTheRules) {
  int changes = 0, unused = 0;
  for (const uint64_t seed : test::seeds(60)) {
    SCOPED_TRACE(test::replay_command(seed));
    Random random(seed, {30});
    const int stages = 2 + static_cast<int>(random.below(5));
    PlanRequest request;
    request.network = test::random_network(seed, stages + static_cast<int>(random.below(8)));
    request.workload = {.activation_bytes = 1 << 20,
                        .stage_layers = std::vector<int>(static_cast<size_t>(stages), 1),
                        .stage_gradient_bytes = std::vector<int64_t>(static_cast<size_t>(stages), 0)};
    request.rules = {.skip_ratio = 1.0 / 3,
                     .max_swaps = static_cast<int>(random.below(3)),
                     .max_jump = 2 + static_cast<int>(random.below(3)),
                     .equal_exposure = random.below(2) == 0,
                     .equal_data = random.below(2) == 0};
    request.microbatches = 1 + static_cast<int>(random.below(12));
    skip_less_if_needed(request);
    if (random.below(3) == 0) request.nodes_per_stage = split_evenly(request.network.size(), stages);
    const int length = path_length(request);
    PlanRequest placed = request;
    placed.stages = random_stages(request, random);
    Plan plan = begin_plan(placed, "joint", request.rules, length);
    const auto paths = draw_stages(placed, plan.microbatches.size(), length, random);
    if (!paths) continue;
    place_by_load(placed, *paths, plan);
    Candidate candidate = candidate_of(plan), changed;
    if (request.rules.equal_data) equalize_data(candidate, random);
    Moves moves(request);
    for (int i = 0; i < 200; ++i) {
      changed = candidate;
      if (!moves.change(changed, 10, random)) continue;
      ++changes;
      candidate = changed;
      take_paths(candidate, plan);
      for (const Violation& violation : validate(plan))  // ranks are not given yet
        if (violation.rule != kRanksRule) ADD_FAILURE() << violation.rule << ": " << violation.what;
      for (size_t s = 0; s < request.nodes_per_stage.size(); ++s) {
        EXPECT_EQ(std::ssize(plan.stages[s]), request.nodes_per_stage[s]);
      }
      unused += static_cast<int>(std::ranges::count(plan.stage_of_nodes(), -1));
    }
  }
  EXPECT_GT(changes, 1000);
  if (!std::getenv("SKIPPIPE_SEED")) {
    EXPECT_GT(unused, 0);
  }
}

// In one change: what would take several, through worse plans.
TEST(Moves, ExchangeUnusedNodesAndWholeStages) {
  using Stages = std::vector<std::vector<int>>;
  PlanRequest request;
  request.network = test::random_network(1, 4);
  request.workload = {.stage_layers = {1, 1}, .stage_gradient_bytes = {0, 0}};
  request.rules.skip_ratio = 0;
  const Candidate start{.length = 2, .stages = {{0, 2}, {1}}, .nodes = {2, 1}};
  Moves moves(request);
  Random random(1, {31});
  std::set<Stages> reached;
  for (int i = 0; i < 1000; ++i) {
    Candidate changed = start;
    if (moves.change(changed, 10, random)) reached.insert(changed.stages);
  }
  EXPECT_THAT(reached, testing::IsSupersetOf(std::vector<Stages>{{{0, 2}, {3}}, {{0, 3}, {1}}, {{1}, {0, 2}}}));
}

}  // namespace
}  // namespace skippipe
