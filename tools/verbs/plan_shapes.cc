#include "tools/verbs/plan_shapes.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "schedule/pictures/shape_table.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "schedule/search/shape_search.h"
#include "tools/verbs/plan_search.h"

namespace skippipe {

ShapedPlan plan_shapes(const std::string& method, ShapeRequest request) {
  if (method == "full") request.plan.rules.skip_ratio = 0;  // its paths skip nothing
  request.plan.progress = show_search("planning", request.plan.budget);
  ShapeChoice choice = choose_shape(*make_planner(method), request);
  request.plan.progress = choice.request.progress = nullptr;
  fmt::print("{}\n", shape_table(choice));
  if (!choice.plan)
    throw PlanError("no shape has a plan: {}: {}", unmet(choice.rows.back().rule), choice.rows.back().why);
  require_valid(validate(*choice.plan, choice.request.network), fmt::format("the new {} plan", method));
  return {.plan = *std::move(choice.plan), .request = std::move(choice.request)};
}

}  // namespace skippipe
