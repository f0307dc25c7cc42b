// Checks a plan against every rule. Shares no code with the planners, the simulator or the node machine.
#pragma once

#include <string>
#include <vector>

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

struct Violation {
  std::string rule;  // one of schedule/plan/rules.h
  std::string what;  // one line with the numbers
};

// Every rule that the plan breaks; empty: it is valid, and no timing can make it deadlock. A plan of broken shape
// (indices out of range, lists of wrong length) is checked for nothing else.
std::vector<Violation> validate(const Plan& plan);
// Also that the plan is for this network: the same nodes, and the same slots, or, where they follow from memory, no
// more than it has room for.
std::vector<Violation> validate(const Plan& plan, const Network& network);

// Throws PlanError with the first violation, and the number of others.
void require_valid(const std::vector<Violation>& violations, const std::string& plan_name);

}  // namespace skippipe
