// `skippipe plan --compare`.
#pragma once

#include <string>

#include "schedule/search/planner.h"

namespace skippipe {

// Where a comparison is written; an empty name: not asked for.
struct ComparisonFiles {
  std::string csv;
  std::string chart;
};

// Plans by every method, each with the whole budget, prints and writes how they compare, and returns the best plan.
// Throws PlanError if there is none.
Plan compare_methods(const PlanRequest& request, const ComparisonFiles& files);

}  // namespace skippipe
