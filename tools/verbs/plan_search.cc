#include "tools/verbs/plan_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "schedule/plan/validator.h"
#include "schedule/search/lower_bound.h"
#include "tools/verbs/progress.h"

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

std::string describe(const SearchProgress& now, double floor_s) {
  const std::string floor = floor_s > 0 ? fmt::format(", floor {:.4g} s", floor_s) : std::string();
  return (std::isfinite(now.best_s) ? fmt::format("best {:.4g} s", now.best_s) : "no plan yet") + floor;
}

}  // namespace

std::function<void(const SearchProgress&)> show_search(const std::string& label, const SearchBudget& budget,
                                                       double floor_s) {
  using Clock = std::chrono::steady_clock;
  return
      [progress = std::make_shared<Progress>(label), budget, floor_s, start = Clock::now()](const SearchProgress& now) {
        const double elapsed_s = std::chrono::duration<double>(Clock::now() - start).count();
        progress->update_share(share_of(budget, now, elapsed_s), describe(now, floor_s));
      };
}

TimedPlan search_plan(const std::string& method, PlanRequest request, const std::string& label) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  request.progress = show_search(label, request.budget, lower_bound(request).seconds);
  TimedPlan timed{.result = make_planner(method)->plan(request)};
  request.progress = nullptr;
  timed.planning_s = std::chrono::duration<double>(Clock::now() - start).count();
  if (timed.result.plan)
    require_valid(validate(*timed.result.plan, request.network), fmt::format("the new {} plan", method));
  return timed;
}

}  // namespace skippipe
