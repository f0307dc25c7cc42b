// `skippipe plan --stages auto`.
#pragma once

#include <string>

#include "schedule/search/shapes.h"

namespace skippipe {

struct ShapedPlan {
  Plan plan;
  PlanRequest request;  // that it answers
};

// Chooses a shape by plans of a method, and prints the alternatives. Throws PlanError if no shape has a plan.
ShapedPlan plan_shapes(const std::string& method, ShapeRequest request);

}  // namespace skippipe
