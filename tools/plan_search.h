// Runs a planner and tells how far it is.
#pragma once

#include <string>

#include "schedule/planner.h"

namespace skippipe {

struct TimedPlan {
  PlanResult result;
  double planning_s = 0;
};

// The request's own progress is replaced: "planning" and the like is the label of a line on standard error. A plan is
// validated (PlanError).
TimedPlan search_plan(const std::string& method, PlanRequest request, const std::string& label);

}  // namespace skippipe
