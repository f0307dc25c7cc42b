// What a search has spent of a request's budget.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>

#include "schedule/search/planner.h"

namespace skippipe {

// Counts evaluations, watches the seconds, and reports both. Owned by one thread; the request must outlive it.
class BudgetMeter {
 public:
  explicit BudgetMeter(const PlanRequest& request)
      : request_(request), evaluations_allowed_(static_cast<double>(request.budget.evaluations)) {}
  // Goes on from what is spent, as one of `searches` that share the rest and run side by side.
  BudgetMeter(const PlanRequest& request, const BudgetMeter& spent, int searches)
      : request_(request),
        searches_(searches),
        evaluations_allowed_(static_cast<double>(request.budget.evaluations) / searches),
        start_(spent.start_),
        evaluations_(spent.evaluations_ / searches) {}

  // The next phase may spend the budget up to this share of it.
  void allow(double share) { share_ = share; }
  bool left() const { return used() < share_; }
  // Share of the budget, of what is spent faster: evaluations or seconds.
  double used() const {
    double used = 0;
    if (evaluations_allowed_ > 0) used = static_cast<double>(evaluations_) / evaluations_allowed_;
    if (request_.budget.seconds > 0) used = std::max(used, elapsed_s() / request_.budget.seconds);
    return used;
  }
  // Its seconds are over, whatever is left of evaluations.
  bool late() const { return request_.budget.seconds > 0 && elapsed_s() >= share_ * request_.budget.seconds; }
  void spend() {
    if (++evaluations_ % kEvaluationsPerLook == 0) report();
  }
  // A plan of this many seconds per iteration is known.
  void found(double iteration_s) { best_s_ = std::min(best_s_, iteration_s); }
  // At most every now and then.
  void report() {
    if (!request_.progress || Clock::now() < next_report_) return;
    next_report_ = Clock::now() + kReportInterval;
    request_.progress({.evaluations = evaluations_ * searches_, .elapsed_s = elapsed_s(), .best_s = best_s_});
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int64_t kEvaluationsPerLook = 8;
  static constexpr auto kReportInterval = std::chrono::milliseconds(50);

  double elapsed_s() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  const PlanRequest& request_;
  int searches_ = 1;
  double evaluations_allowed_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_report_ = start_;
  double share_ = 1;
  int64_t evaluations_ = 0;
  double best_s_ = std::numeric_limits<double>::infinity();
};

}  // namespace skippipe
