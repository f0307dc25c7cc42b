// Partial pipelines (arXiv:2502.19913): every microbatch has a path of its own through P of the S stages.
//
// First the stages of each path, as often each as C4 asks; then replicas by load; then local search on simulated time
// over stages, replicas, order within paths and start order, which keeps C1-C4 at each step and sees T1 and T2 as time.
#include <algorithm>

#include "base/error.h"
#include "schedule/paths.h"
#include "schedule/search.h"

namespace skippipe {
namespace {

using Stages = PathStages;

class SkipMoves {
 public:
  SkipMoves(const PlanRules& rules, int stage_count, bool may_place)
      : rules_(rules), stage_count_(stage_count), may_place_(may_place) {}

  bool operator()(Plan& plan, Random& random) {
    stage_of_ = plan.stage_of_nodes();
    const size_t count = plan.microbatches.size();
    PlannedMicrobatch& a = plan.microbatches[random.below(count)];
    PlannedMicrobatch& b = plan.microbatches[random.below(count)];
    switch (random.below(8)) {
      case 0:
        return exchange_nodes(plan, random, may_place_);
      case 1:
        return exchange_places(a, b);
      case 2:
        return reorder(a, random);
      case 3:
      case 4:
        return change_replica(plan, a, random);
      case 5:
        return exchange_replicas(a, b, random);
      default:
        return rules_.equal_exposure ? exchange_visits(a, b, random) : replace_visit(plan, a, random);
    }
  }

 private:
  int stage_of(const PlannedVisit& visit) const { return stage_of_[static_cast<size_t>(visit.node)]; }

  const Stages& stages_of(const PlannedMicrobatch& microbatch, Stages& scratch) const {
    scratch.clear();
    for (size_t i = 1; i < microbatch.visits.size(); ++i) scratch.push_back(stage_of(microbatch.visits[i]));
    return scratch;
  }

  // Back into an order that C3 allows, ascending unless the present one is; false: there is none.
  bool settle(PlannedMicrobatch& microbatch) {
    if (disorder(stages_of(microbatch, stages_a_), rules_) == 0) return true;
    std::sort(microbatch.visits.begin() + 1, microbatch.visits.end(),
              [&](const PlannedVisit& x, const PlannedVisit& y) { return stage_of(x) < stage_of(y); });
    return disorder(stages_of(microbatch, stages_a_), rules_) == 0;
  }

  // The visits of a path keep their priorities; only the nodes change places.
  static bool exchange_places(PlannedMicrobatch& a, PlannedMicrobatch& b) {
    if (&a == &b) return false;
    for (size_t i = 0; i < a.visits.size(); ++i) std::swap(a.visits[i].node, b.visits[i].node);
    return true;
  }

  bool reorder(PlannedMicrobatch& a, Random& random) {
    if (a.visits.size() < 3) return false;
    const size_t i = 1 + random.below(a.visits.size() - 2);
    std::swap(a.visits[i].node, a.visits[i + 1].node);
    return disorder(stages_of(a, stages_a_), rules_) == 0;
  }

  bool change_replica(const Plan& plan, PlannedMicrobatch& a, Random& random) {
    PlannedVisit& visit = a.visits[random.below(a.visits.size())];
    const std::vector<int>& replicas = plan.stages[static_cast<size_t>(stage_of(visit))];
    const int node = replicas[random.below(replicas.size())];
    if (node == visit.node) return false;
    visit.node = node;
    return true;
  }

  bool exchange_replicas(PlannedMicrobatch& a, PlannedMicrobatch& b, Random& random) {
    PlannedVisit& visit = a.visits[random.below(a.visits.size())];
    for (PlannedVisit& other : b.visits) {
      if (stage_of(other) != stage_of(visit) || other.node == visit.node) continue;
      std::swap(visit.node, other.node);
      return true;
    }
    return false;
  }

  bool exchange_visits(PlannedMicrobatch& a, PlannedMicrobatch& b, Random& random) {
    stages_of(a, stages_a_);
    stages_of(b, stages_b_);
    const int i = random_difference(stages_a_, stages_b_, random);
    const int j = random_difference(stages_b_, stages_a_, random);
    if (i < 0 || j < 0) return false;
    std::swap(a.visits[static_cast<size_t>(i) + 1].node, b.visits[static_cast<size_t>(j) + 1].node);
    return settle(a) && settle(b);
  }

  bool replace_visit(const Plan& plan, PlannedMicrobatch& a, Random& random) {
    if (a.visits.size() < 2) return false;
    const int stage = 1 + static_cast<int>(random.below(static_cast<uint64_t>(stage_count_ - 1)));
    if (contains(stages_of(a, stages_a_), stage)) return false;
    const std::vector<int>& replicas = plan.stages[static_cast<size_t>(stage)];
    a.visits[1 + random.below(a.visits.size() - 1)].node = replicas[random.below(replicas.size())];
    return settle(a);
  }

  PlanRules rules_;
  int stage_count_;
  bool may_place_;
  std::vector<int> stage_of_;
  Stages stages_a_, stages_b_;  // scratch
};

class SkipPlanner : public Planner {
 public:
  PlanResult plan(const PlanRequest& request) const override {
    if (auto infeasible = check_request(request)) return *std::move(infeasible);
    const int length = path_length(request);
    const int stages = request.stage_count();
    if (length < 1)
      return {.rule = "C2",
              .why = fmt::format("a skip ratio of {} leaves {} of {} stages to visit, at least 1 is needed",
                                 request.rules.skip_ratio, length, stages)};
    Random random(request.seed, {1});
    Plan start = begin_plan(request, "joint", request.rules, length, random);
    std::vector<Stages> paths(start.microbatches.size());
    if (length > 1) {
      paths = balanced_stages(paths.size(), static_cast<size_t>(length - 1), stages, random);
      if (!repair_jumps(paths, request.rules, stages, random)) return no_paths(request, length);
    }
    place_by_load(request, paths, start);
    return search(request, std::move(start), SkipMoves(request.rules, stages, request.stages.empty()), random);
  }
};

}  // namespace

std::unique_ptr<Planner> make_joint_planner() { return std::make_unique<SkipPlanner>(); }

}  // namespace skippipe
