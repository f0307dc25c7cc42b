#include "schedule/search/shape_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "schedule/search/budget_meter.h"
#include "schedule/search/capacity.h"
#include "schedule/search/lower_bound.h"
#include "schedule/search/planning.h"

namespace skippipe {
namespace {

constexpr int kRounds = 3;
constexpr double kRoundShare = 1.0 / 6;    // of the budget
constexpr int64_t kLeastEvaluations = 60;  // of a shape in the first round
constexpr double kLeastSeconds = 0.02;
constexpr double kLeastShare = 0.01;  // of the budget, however late it is
constexpr size_t kFewestShapes = 4;
constexpr size_t kMostShapes = 64;
constexpr size_t kSurvivors = 3;  // one of so many

using Stages = std::vector<std::vector<int>>;

struct Entry {
  ShapeRow row;
  Stages stages;  // where its nodes are; empty: the planner places them
  std::optional<Plan> plan = {};
};

bool is_better(const Entry& a, const Entry& b) { return a.row.score > b.row.score; }

// Of the score.
double score_at(const ShapeRow& row, double iteration_s, const PlanRules& rules) {
  const double asked_share = 1 - rules.skip_ratio;
  const double credit = asked_share > 0 ? std::min(1.0, row.computed_share / asked_share) : 1;
  return credit * static_cast<double>(row.samples) / iteration_s;
}

class Tournament {
 public:
  Tournament(const Planner& planner, const ShapeRequest& shapes)
      : planner_(planner), shapes_(shapes), meter_(shapes.plan), request_(shapes.plan) {}

  ShapeChoice run() {
    for (const int stages : stage_counts(shapes_)) add_stage_count(stages);
    keep_promising();
    for (int round = 0; round < kRounds && entries_.size() > 1; ++round) {
      play_all(kRoundShare);
      retire(std::max<size_t>(1, entries_.size() / kSurvivors));
      if (round + 1 < kRounds) add_neighbours();
    }
    finish();
    return conclude();
  }

 private:
  void add_stage_count(int stages) {
    std::optional<PlanResult> refusal = check_stage_count(shapes_, stages);
    const size_t before = entries_.size();
    if (!refusal) {
      const std::vector<Shape> candidates = candidate_shapes(shapes_, stages);
      for (const Shape& shape : candidates) {
        std::optional<PlanResult> misfit = add(shape, {});
        if (misfit && !refusal) refusal = std::move(misfit);
      }
      if (candidates.empty()) refusal = PlanResult{.rule = "C1", .why = "more data nodes than microbatches"};
    }
    if (entries_.size() > before) return;
    Shape shape = {.stage_layers = split_evenly(shapes_.layers, stages),
                   .nodes_per_stage = split_evenly(shapes_.plan.network.size(), stages)};
    refused_.push_back({.shape = std::move(shape), .rule = refusal->rule, .why = refusal->why});
  }

  // Returns what makes the shape infeasible, if anything. One that is known already is left out.
  std::optional<PlanResult> add(const Shape& shape, const Stages& stages) {
    if (!known_.emplace(shape, stages).second) return std::nullopt;
    set_shape(shapes_, shape, request_);
    request_.stages = stages;
    if (auto misfit = check_path_length(request_)) return misfit;
    if (auto misfit = check_capacity(request_)) return misfit;
    request_.stages.clear();
    ShapeRow row = {.shape = shape,
                    .samples = int64_t{request_.microbatches} * request_.workload.samples,
                    .computed_share = computed_share(request_.rules, shape.stage_layers),
                    .floor_s = quick_lower_bound(request_).seconds};
    entries_.push_back({.row = std::move(row), .stages = stages});
    return std::nullopt;
  }

  // As many as the budget can tell apart, those first that have the highest floor under their score; but of every
  // number of stages one.
  void keep_promising() {
    std::ranges::stable_sort(entries_, std::greater{}, [&](const Entry& entry) {
      return score_at(entry.row, entry.row.floor_s, shapes_.plan.rules);
    });
    std::set<int> seen;
    std::ranges::stable_partition(
        entries_, [&](const Entry& entry) { return seen.insert(entry.row.shape.stage_count()).second; });
    const size_t most = affordable();
    if (entries_.size() <= most) return;
    untried_ = static_cast<int>(entries_.size() - most);
    entries_.resize(most);
  }

  size_t affordable() const {
    const SearchBudget& budget = shapes_.plan.budget;
    double count = static_cast<double>(kMostShapes);
    if (budget.evaluations > 0)
      count = std::min(count, kRoundShare * static_cast<double>(budget.evaluations / kLeastEvaluations));
    if (budget.seconds > 0) count = std::min(count, kRoundShare * budget.seconds / kLeastSeconds);
    return std::max(kFewestShapes, static_cast<size_t>(count));
  }

  void play_all(double share) {
    const double each = share / static_cast<double>(entries_.size());
    for (Entry& entry : entries_) play(entry, entry.stages, each);
  }

  // Plans for the shape with a share of the budget, and keeps the better plan.
  void play(Entry& entry, const Stages& stages, double share) {
    set_shape(shapes_, entry.row.shape, request_);
    request_.stages = stages;
    const SearchBudget& budget = shapes_.plan.budget;
    if (budget.evaluations > 0)
      request_.budget.evaluations =
          std::max<int64_t>(1, static_cast<int64_t>(share * static_cast<double>(budget.evaluations)));
    request_.budget.seconds = share * budget.seconds;
    request_.progress = [&](const SearchProgress& now) { report(now.evaluations, now.elapsed_s); };
    PlanResult result = planner_.plan(request_);
    spent_share_ += share;
    report(0, 0);
    if (!result.plan) {
      if (entry.plan) return;
      entry.row.rule = result.rule;
      entry.row.why = result.why;
      return;
    }
    const double iteration_s = result.plan->predicted.iteration_s;
    if (entry.plan && iteration_s >= *entry.row.iteration_s) return;
    entry.plan = std::move(result.plan);
    entry.row.iteration_s = iteration_s;
    entry.row.score = score_at(entry.row, iteration_s, shapes_.plan.rules);
    entry.row.rule.clear();
    entry.row.why.clear();
    if (!best_s_ || entry.row.score > best_score_) {
      best_s_ = iteration_s;
      best_score_ = entry.row.score;
    }
  }

  // What the present plan has spent comes on top of what those before may have.
  void report(int64_t evaluations, double elapsed_s) const {
    if (!shapes_.plan.progress) return;
    const SearchBudget& budget = shapes_.plan.budget;
    SearchProgress now = {
        .evaluations = evaluations + static_cast<int64_t>(spent_share_ * static_cast<double>(budget.evaluations)),
        .elapsed_s = elapsed_s + spent_share_ * budget.seconds};
    if (best_s_) now.best_s = *best_s_;
    shapes_.plan.progress(now);
  }

  // All but the best leave the tournament; they keep their rows.
  void retire(size_t survivors) {
    std::ranges::stable_sort(entries_, is_better);
    for (size_t i = survivors; i < entries_.size(); ++i) retired_.push_back(std::move(entries_[i].row));
    entries_.resize(std::min(survivors, entries_.size()));
  }

  void add_neighbours() {
    const size_t parents = entries_.size();
    for (size_t i = 0; i < parents; ++i) {
      if (!entries_[i].plan) continue;
      const Plan plan = *entries_[i].plan;
      add(balance_layers(shapes_, plan), plan.stages);
      for (const Shape& shape : move_nodes(shapes_, plan)) add(shape, {});
    }
  }

  // The winner gets what is left, in its nodes' present places and in any.
  void finish() {
    if (entries_.empty()) return;
    Entry& winner = entries_.front();
    std::vector<Stages> places = {{}};
    if (!winner.stages.empty()) places.push_back(winner.stages);
    // Plans may have taken more seconds than were theirs, and what is between them takes some, too.
    const double left = std::max(kLeastShare, 1 - std::max(spent_share_, meter_.used()));
    const double each = left / static_cast<double>(places.size());
    for (const Stages& stages : places) play(winner, stages, each);
  }

  ShapeChoice conclude() {
    ShapeChoice choice{.rows = {},
                       .untried = untried_,
                       .skip_ratio = shapes_.plan.rules.skip_ratio,
                       .plan = std::nullopt,
                       .request = std::move(request_)};
    if (!entries_.empty()) {
      set_shape(shapes_, entries_.front().row.shape, choice.request);
      choice.plan = std::move(entries_.front().plan);
    }
    choice.request.budget = shapes_.plan.budget;
    choice.request.progress = shapes_.plan.progress;
    for (Entry& entry : entries_) choice.rows.push_back(std::move(entry.row));
    for (ShapeRow& row : retired_) choice.rows.push_back(std::move(row));
    std::ranges::stable_sort(choice.rows, std::greater{}, &ShapeRow::score);
    drop_repeated(choice.rows);
    for (ShapeRow& row : refused_) choice.rows.push_back(std::move(row));
    return choice;
  }

  // The same shape in other places.
  static void drop_repeated(std::vector<ShapeRow>& rows) {
    std::set<Shape> seen;
    std::erase_if(rows, [&](const ShapeRow& row) { return !seen.insert(row.shape).second; });
  }

  const Planner& planner_;
  const ShapeRequest& shapes_;
  const BudgetMeter meter_;
  PlanRequest request_;  // of the shape under way
  std::vector<Entry> entries_;
  std::vector<ShapeRow> retired_, refused_;
  std::set<std::pair<Shape, Stages>> known_;
  int untried_ = 0;
  double spent_share_ = 0;
  std::optional<double> best_s_;
  double best_score_ = 0;
};

}  // namespace

ShapeChoice choose_shape(const Planner& planner, const ShapeRequest& request) {
  if (request.layers < 1) throw ConfigError("layers: found {}, expected at least 1", request.layers);
  return Tournament(planner, request).run();
}

}  // namespace skippipe
