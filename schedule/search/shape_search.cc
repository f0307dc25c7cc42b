#include "schedule/search/shape_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "base/error.h"
#include "schedule/plan/rules.h"
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
constexpr size_t kFinalists = 3;

using Stages = std::vector<std::vector<int>>;

struct Entry {
  ShapeRow row;
  std::vector<int> nodes;  // of the network, ascending
  Stages stages;           // where these are; empty: the planner places them
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
      : planner_(planner), shapes_(shapes), meter_(shapes.plan), choices_(node_choices(shapes)) {}

  ShapeChoice run() {
    for (const int stages : stage_counts(shapes_)) add_stage_count(stages);
    keep_promising();
    for (int round = 0; round < kRounds && entries_.size() > 1; ++round) {
      play_all(kRoundShare);
      retire(std::max(kFinalists, entries_.size() / kSurvivors));
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
      bool found = false;
      std::vector<std::vector<int>> choices = choices_;
      choices.push_back(close_nodes(shapes_, stages));
      for (const std::vector<int>& nodes : choices) {
        if (std::ssize(nodes) < stages) continue;
        for (const Shape& shape : candidate_shapes(request_for(shapes_, nodes), stages)) {
          found = true;
          std::optional<PlanResult> misfit = add(shape, nodes, {});
          if (misfit && !refusal) refusal = std::move(misfit);
        }
      }
      if (!found) refusal = PlanResult{.rule = kStageNodesRule, .why = "more data nodes than microbatches"};
    }
    if (entries_.size() > before) return;
    Shape shape = {.stage_layers = split_evenly(shapes_.layers, stages),
                   .nodes_per_stage = split_evenly(shapes_.plan.network.size(), stages)};
    refused_.push_back({.shape = std::move(shape), .rule = refusal->rule, .why = refusal->why});
  }

  // Returns what makes the shape infeasible, if anything. One that is known already is left out.
  std::optional<PlanResult> add(const Shape& shape, const std::vector<int>& nodes, const Stages& stages) {
    if (!known_.emplace(shape, nodes, stages).second) return std::nullopt;
    Entry entry = {.row = {.shape = shape}, .nodes = nodes, .stages = stages};
    const PlanRequest request = request_of(entry);
    if (auto misfit = check_path_length(request)) return misfit;
    if (auto misfit = check_capacity(request)) return misfit;
    describe(entry, request);
    entries_.push_back(std::move(entry));
    return std::nullopt;
  }

  // For an entry's nodes alone. Where these are dealt evenly, a planner that can finds better sizes.
  PlanRequest request_of(const Entry& entry) const {
    const Shape& shape = entry.row.shape;
    PlanRequest request = shapes_.plan;
    request.network = subnetwork(shapes_.plan.network, entry.nodes);
    set_shape(shapes_, shape, request);
    if (planner_.improves_plans() && shape.nodes_per_stage == split_evenly(request.network.size(), shape.stage_count()))
      request.nodes_per_stage.clear();
    for (const std::vector<int>& stage : entry.stages) {
      std::vector<int>& numbers = request.stages.emplace_back();
      for (const int node : stage)
        numbers.push_back(static_cast<int>(std::ranges::lower_bound(entry.nodes, node) - entry.nodes.begin()));
    }
    return request;
  }

  // For the entry's nodes, in the numbers that its shape says.
  void describe(Entry& entry, PlanRequest request) const {
    request.stages.clear();
    request.nodes_per_stage = entry.row.shape.nodes_per_stage;
    entry.row.left_out = shapes_.plan.network.size() - request.network.size();
    entry.row.samples = int64_t{request.microbatches} * request.workload.samples;
    entry.row.computed_share = computed_share(request.rules, entry.row.shape.stage_layers);
    entry.row.floor_s = quick_lower_bound(request).seconds;
  }

  // As many as the budget can tell apart, those first that have the highest floor under their score; but of every
  // number of stages one, then one of any choice of nodes.
  void keep_promising() {
    std::ranges::stable_sort(entries_, std::greater{}, [&](const Entry& entry) {
      return score_at(entry.row, entry.row.floor_s, shapes_.plan.rules);
    });
    std::set<std::pair<int, std::vector<int>>> seen_choices;
    std::ranges::stable_partition(entries_, [&](const Entry& entry) {
      return seen_choices.emplace(entry.row.shape.stage_count(), entry.nodes).second;
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
    for (Entry& entry : entries_) {
      if (is_improvable(entry))
        improve(entry, each);
      else
        play(entry, each);
    }
  }

  bool is_improvable(const Entry& entry) const { return entry.plan && planner_.improves_plans(); }

  // Plans for the shape on its nodes, with a share of the budget, and keeps the better plan.
  void play(Entry& entry, double share) {
    PlanResult result = search(request_of(entry), share);
    if (result.plan) result.plan = widen(*result.plan, entry.nodes, shapes_.plan.network);
    take(entry, std::move(result));
  }

  // From the plan of the shape on, on any nodes.
  void improve(Entry& entry, double share) {
    PlanRequest request = request_of(*entry.plan);
    request.start = entry.plan;
    take(entry, search(std::move(request), share));
  }

  // On any nodes where the planner finds sizes by itself, else on those of the shape in any places.
  void search_anew(Entry& entry, double share) {
    if (is_improvable(entry)) return take(entry, search(request_of(*entry.plan), share));
    entry.stages.clear();
    play(entry, share);
  }

  // From the plan of the shape, or in its places.
  void go_on(Entry& entry, double share) {
    if (is_improvable(entry)) return improve(entry, share);
    if (entry.plan) entry.stages = entry.plan->stages;
    play(entry, share);
  }

  // On any nodes, in any stages.
  PlanRequest request_of(const Plan& plan) const {
    PlanRequest request = shapes_.plan;
    request.rules = plan.rules;
    request.workload = plan.workload;
    request.stages.clear();
    request.nodes_per_stage.clear();
    request.microbatches = static_cast<int>(plan.microbatches.size());
    return request;
  }

  PlanResult search(PlanRequest request, double share) {
    const SearchBudget& budget = shapes_.plan.budget;
    if (budget.evaluations > 0)
      request.budget.evaluations =
          std::max<int64_t>(1, static_cast<int64_t>(share * static_cast<double>(budget.evaluations)));
    request.budget.seconds = share * budget.seconds;
    request.progress = [&](const SearchProgress& now) { report(now.evaluations, now.elapsed_s); };
    PlanResult result = planner_.plan(request);
    spent_share_ += share;
    report(0, 0);
    return result;
  }

  void take(Entry& entry, PlanResult result) {
    if (!result.plan) {
      if (entry.plan) return;
      entry.row.rule = result.rule;
      entry.row.why = result.why;
      return;
    }
    const double iteration_s = result.plan->predicted.iteration_s;
    if (entry.plan && iteration_s >= *entry.row.iteration_s) return;
    entry.plan = std::move(result.plan);
    follow(entry);
    entry.row.iteration_s = iteration_s;
    entry.row.score = score_at(entry.row, iteration_s, shapes_.plan.rules);
    entry.row.rule.clear();
    entry.row.why.clear();
    if (!best_s_ || entry.row.score > best_score_) {
      best_s_ = iteration_s;
      best_score_ = entry.row.score;
    }
  }

  // The row tells of the plan's nodes.
  void follow(Entry& entry) const {
    const Plan& plan = *entry.plan;
    std::vector<int> nodes = used_nodes(plan);
    Shape shape = shape_of(plan);
    if (nodes == entry.nodes && shape == entry.row.shape) return;
    entry.nodes = std::move(nodes);
    entry.row.shape = std::move(shape);
    PlanRequest request = request_of(plan);
    request.network = subnetwork(shapes_.plan.network, entry.nodes);
    describe(entry, std::move(request));
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
      const std::vector<int> nodes = used_nodes(plan);
      add(balance_layers(shapes_, plan), nodes, plan.stages);
      for (const Shape& shape : move_nodes(shapes_, plan)) add(shape, nodes, {});
    }
  }

  // What is left goes to the best few, anew, and then to the best of these.
  void finish() {
    retire(kFinalists);
    if (entries_.empty()) return;
    // Plans may have taken more seconds than were theirs, and what is between them takes some, too.
    const double left = std::max(kLeastShare, 1 - std::max(spent_share_, meter_.used()));
    for (Entry& entry : entries_) search_anew(entry, left / 2 / static_cast<double>(entries_.size()));
    retire(1);
    go_on(entries_.front(), left / 2);
    if (Entry& winner = entries_.front(); winner.plan) {
      leave_out_idle(request_of(*winner.plan), *winner.plan);
      follow(winner);
    }
  }

  ShapeChoice conclude() {
    ShapeChoice choice{.rows = {},
                       .untried = untried_,
                       .skip_ratio = shapes_.plan.rules.skip_ratio,
                       .plan = std::nullopt,
                       .request = shapes_.plan};
    if (!entries_.empty() && entries_.front().plan) {
      choice.request = request_of(*entries_.front().plan);
      choice.plan = std::move(entries_.front().plan);
    }
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
  const std::vector<std::vector<int>> choices_;  // of nodes
  std::vector<Entry> entries_;
  std::vector<ShapeRow> retired_, refused_;
  std::set<std::tuple<Shape, std::vector<int>, Stages>> known_;
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
