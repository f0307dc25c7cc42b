// Random networks and plans for the tests, with paths that no planner would choose.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe::test {

// The seeds of a randomized test: [0, count), or only SKIPPIPE_SEED where that is set.
std::vector<uint64_t> seeds(uint64_t count);
// For SCOPED_TRACE: the command that replays the current test with one seed.
std::string replay_command(uint64_t seed);

Network random_network(uint64_t seed, int nodes);

// 1 to 12 nodes, stages, skips, swaps, slots and priorities at random (not balanced: C4 is off). Ranks come from an
// any-slot run; nullopt where that deadlocks.
struct Case {
  Network network;
  Plan plan;
};
std::optional<Case> random_case(uint64_t seed);

// Without any one node of a stage that no path visits, the plan would be slower.
void expect_nobody_idle(const Plan& plan, const Network& network);

// 4 nodes in 2 stages, 4 microbatches that all visit both: small, valid, completed.
Case small_case();

}  // namespace skippipe::test
