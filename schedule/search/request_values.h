// What a request to plan says must make sense by itself.
#pragma once

#include "schedule/search/planner.h"

namespace skippipe {

// Throws ConfigError naming the field of rules, workload, network or request that is NaN, out of range, or of another
// length than the number of stages.
void check_values(const PlanRequest& request);

}  // namespace skippipe
