// What a search has spent of a request's budget.
#pragma once

#include <algorithm>
#include <chrono>

#include "schedule/planner.h"

namespace skippipe {

// Counts evaluations, watches the seconds, and reports both. Owned by one thread; the request must outlive it.
class BudgetMeter {
 public:
  explicit BudgetMeter(const PlanRequest& request) : request_(request) {}

  // The next phase may spend the budget up to this share of it.
  void allow(double share) { share_ = share; }
  bool left() const {
    const SearchBudget& budget = request_.budget;
    if (budget.evaluations > 0 &&
        evaluations_ >= static_cast<int64_t>(share_ * static_cast<double>(budget.evaluations)))
      return false;
    return budget.seconds <= 0 || elapsed_s() < share_ * budget.seconds;
  }
  void spend() {
    if (++evaluations_ % kEvaluationsPerReport == 0) report();
  }
  // A plan of this many seconds per iteration is known.
  void found(double iteration_s) {
    best_s_ = std::min(best_s_, iteration_s);
    report();
  }

 private:
  static constexpr int64_t kEvaluationsPerReport = 500;

  double elapsed_s() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  // A step that costs several evaluations may end beyond the budget.
  void report() const {
    const int64_t most = request_.budget.evaluations;
    if (request_.progress)
      request_.progress({.evaluations = most > 0 ? std::min(most, evaluations_) : evaluations_,
                         .elapsed_s = elapsed_s(),
                         .best_s = best_s_});
  }

  const PlanRequest& request_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double share_ = 1;
  int64_t evaluations_ = 0;
  double best_s_ = std::numeric_limits<double>::infinity();
};

}  // namespace skippipe
