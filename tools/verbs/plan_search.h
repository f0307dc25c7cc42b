// Runs a planner and tells how far it is.
#pragma once

#include <functional>
#include <string>

#include "schedule/search/planner.h"

namespace skippipe {

struct TimedPlan {
  PlanResult result;
  double planning_s = 0;
};

// Shows a search of this budget as a line on standard error, labelled "planning" and the like, until destroyed.
std::function<void(const SearchProgress&)> show_search(const std::string& label, const SearchBudget& budget,
                                                       double floor_s = 0);

// The request's own progress is replaced by show_search's. A plan is validated (PlanError).
TimedPlan search_plan(const std::string& method, PlanRequest request, const std::string& label);

}  // namespace skippipe
