// Why an iteration takes as long as it does, and what would shorten it.
#pragma once

#include <string>
#include <vector>

#include "schedule/pictures/critical_path.h"
#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

// A network that differs in one thing.
struct ChangeEffect {
  std::string what;  // "one more slot on Iowa-3"
  double iteration_s = 0;
};

struct Explanation {
  std::vector<CriticalPiece> path;
  double iteration_s = 0;
  // The same network, ranks made anew: what the changes are compared with. Differs from the above where the plan was
  // made for another network.
  double reranked_s = 0;
  std::vector<ChangeEffect> changes = {};  // those that help, the best first
};

// Simulates the plan, and again for each change: per node one more slot or twice the speed; per link of the critical
// path and per pair of regions that talk, half the delay or twice the bandwidth; for each uplink, those of a region and
// all of them, twice the bandwidth; per stage another node like its fastest one, linked as that one is (between the two,
// its fastest link), which takes every second visit of the stage's busiest node. Paths and priorities stay the plan's;
// ranks are made anew, as a new plan's would be: to search for new paths as well could only help more. Changes under
// which these paths deadlock are left out. Throws PlanError if the plan is not for this network or deadlocks.
Explanation explain_plan(const Plan& plan, const Network& network);

// The same in words, at most `changes` of them.
std::string explanation_text(const Plan& plan, const Explanation& explanation, size_t changes);

}  // namespace skippipe
