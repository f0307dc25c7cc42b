#include "tools/plan_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "schedule/validator.h"
#include "tools/progress.h"

namespace skippipe {
namespace {

// Of the limit that will be reached first.
double share_of(const SearchBudget& budget, const SearchProgress& now, double elapsed_s) {
  double share = 0;
  if (budget.evaluations > 0)
    share = std::max(share, static_cast<double>(now.evaluations) / static_cast<double>(budget.evaluations));
  if (budget.seconds > 0) share = std::max(share, elapsed_s / budget.seconds);
  return share;
}

std::string describe(const SearchProgress& now) {
  return std::isfinite(now.best_s) ? fmt::format("best {:.4g} s", now.best_s) : "no plan yet";
}

}  // namespace

TimedPlan search_plan(const std::string& method, PlanRequest request, const std::string& label) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed_s = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  Progress progress(label);
  request.progress = [&](const SearchProgress& now) {
    progress.update_share(share_of(request.budget, now, elapsed_s()), describe(now));
  };
  TimedPlan timed{.result = make_planner(method)->plan(request)};
  timed.planning_s = elapsed_s();
  if (timed.result.plan)
    require_valid(validate(*timed.result.plan, request.network), fmt::format("the new {} plan", method));
  return timed;
}

}  // namespace skippipe
