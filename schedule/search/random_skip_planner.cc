// The baseline of arXiv:2502.19913 for what skipping alone gives: stages as DT-FM places them, and for each microbatch
// a random path that keeps C1-C4. Nothing is searched on simulated time. The published random paths are three per data
// node, each used twice; here every microbatch has its own. T1: the visits of a stage are dealt evenly to its replicas,
// and paths whose slots deadlock are drawn again.
#include <algorithm>

#include "base/error.h"
#include "schedule/machine/ranking.h"
#include "schedule/plan/rules.h"
#include "schedule/search/dtfm_placement.h"
#include "schedule/search/paths.h"
#include "schedule/search/planning.h"

namespace skippipe {
namespace {

constexpr int kDraws = 200;
constexpr int kOrdersPerPath = 20;

// In any order that C3 allows, as far as a few draws find one.
void reorder(PathStages& path, const PlanRules& rules, Random& random) {
  PathStages order = path;
  for (int i = 0; i < kOrdersPerPath; ++i) {
    random.shuffle(order);
    if (disorder(order, rules) > 0) continue;
    path = order;
    return;
  }
}

// Deals a stage's replicas in random order; all of them before any comes again.
class Dealer {
 public:
  explicit Dealer(const std::vector<std::vector<int>>& stages) : stages_(stages), hands_(stages.size()) {}

  int next(size_t stage, Random& random) {
    std::vector<int>& hand = hands_[stage];
    if (hand.empty()) {
      hand = stages_[stage];
      random.shuffle(hand);
    }
    const int node = hand.back();
    hand.pop_back();
    return node;
  }

 private:
  const std::vector<std::vector<int>>& stages_;
  std::vector<std::vector<int>> hands_;
};

void deal(Plan& plan, const std::vector<PathStages>& paths, Random& random) {
  Dealer dealer(plan.stages);
  for (size_t m = 0; m < paths.size(); ++m) {
    std::vector<PlannedVisit>& visits = plan.microbatches[m].visits;
    visits[0].node = plan.stages[0][m % plan.stages[0].size()];
    for (size_t i = 0; i < paths[m].size(); ++i)
      visits[i + 1].node = dealer.next(static_cast<size_t>(paths[m][i]), random);
  }
}

class RandomSkipPlanner : public Planner {
 public:
  PlanResult plan(const PlanRequest& request) const override {
    if (auto infeasible = check_request(request)) return *std::move(infeasible);
    const int length = path_length(request);
    BudgetMeter meter(request);
    Placements placements = place_stages(request, meter);
    if (placements.best_first.empty()) return placements.why;
    PlanRequest placed = request;
    placed.stages = std::move(placements.best_first[0].stages);
    Random random(request.seed, {3});
    Plan plan = begin_plan(placed, "random-skip", request.rules, length);
    Simulator simulator(request.network);
    for (int draw = 0; draw < kDraws; ++draw) {
      auto paths = draw_stages(request, plan.microbatches.size(), length, random);
      if (!paths) return no_paths(request, length);
      for (PathStages& path : *paths) reorder(path, request.rules, random);
      deal(plan, *paths, random);
      if (!complete_plan(plan, simulator)) continue;
      meter.found(plan.predicted.iteration_s);
      return {.plan = std::move(plan)};
    }
    return {
        .rule = kSlotsRule,
        .why = fmt::format("all {} draws of {} random paths deadlock on full slots: more slots, fewer swaps or fewer "
                           "microbatches are needed",
                           kDraws, request.microbatches)};
  }
};

}  // namespace

std::unique_ptr<Planner> make_random_skip_planner() { return std::make_unique<RandomSkipPlanner>(); }

}  // namespace skippipe
