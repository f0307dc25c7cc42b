// Partial pipelines (arXiv:2502.19913): every microbatch has a path of its own through P of the S stages.
//
// First the stages of each path, as often each as C4 asks; then replicas by load; then local search on simulated time
// over stages, replicas, order within paths and start order, which keeps C1-C4 at each step and sees T1 and T2 as time.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "schedule/search.h"

namespace skippipe {
namespace {

using Stages = std::vector<int>;  // of one path behind stage 0, in order of visit

constexpr int kRepairsPerMicrobatch = 2000;

// How far a path's visits exceed C3, 0: it keeps the rule.
int disorder(const Stages& path, const PlanRules& rules) {
  int excess = 0, furthest = 0, behind = 0;
  for (const int stage : path) {
    excess += std::max(0, stage - furthest - rules.max_jump);
    if (stage < furthest) {
      ++behind;
      excess += std::max(0, furthest - stage - rules.max_swap_distance);
    }
    furthest = std::max(furthest, stage);
  }
  return excess + std::max(0, behind - rules.max_swaps);
}

bool contains(const Stages& path, int stage) { return std::find(path.begin(), path.end(), stage) != path.end(); }

// The position in `path` of a random stage that `other` does not visit; -1 if there is none.
int random_difference(const Stages& path, const Stages& other, Random& random) {
  int found = -1;
  uint64_t seen = 0;
  for (size_t i = 0; i < path.size(); ++i)
    if (!contains(other, path[i]) && random.below(++seen) == 0) found = static_cast<int>(i);
  return found;
}

// Stages for every path, ascending, each of the S - 1 as often as the others (C4), ties broken at random.
std::vector<Stages> balanced_stages(size_t microbatches, size_t length, int stage_count, Random& random) {
  std::vector<Stages> paths(microbatches);
  std::vector<int> served(static_cast<size_t>(stage_count), 0);
  Stages order(static_cast<size_t>(stage_count - 1));
  for (Stages& path : paths) {
    std::iota(order.begin(), order.end(), 1);
    random.shuffle(order);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return served[static_cast<size_t>(a)] < served[static_cast<size_t>(b)]; });
    path.assign(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(length));
    for (const int stage : path) ++served[static_cast<size_t>(stage)];
    std::sort(path.begin(), path.end());
  }
  return paths;
}

// Exchanges a stage between two paths (keeps C4) and sorts both.
bool exchange_stages(Stages& a, Stages& b, Random& random) {
  const int i = random_difference(a, b, random);
  const int j = random_difference(b, a, random);
  if (i < 0 || j < 0) return false;
  std::swap(a[static_cast<size_t>(i)], b[static_cast<size_t>(j)]);
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return true;
}

// Where C4 is off: one stage of a path becomes any other.
void replace_stage(Stages& path, int stage_count, Random& random) {
  const int stage = 1 + static_cast<int>(random.below(static_cast<uint64_t>(stage_count - 1)));
  if (path.empty() || contains(path, stage)) return;
  path[random.below(path.size())] = stage;
  std::sort(path.begin(), path.end());
}

// Exchanges stages until no path jumps too far (C3). False: not found.
bool repair_jumps(std::vector<Stages>& paths, const PlanRules& rules, int stage_count, Random& random) {
  for (size_t tries = 0; tries < paths.size() * kRepairsPerMicrobatch; ++tries) {
    const auto broken =
        std::find_if(paths.begin(), paths.end(), [&](const Stages& p) { return disorder(p, rules) > 0; });
    if (broken == paths.end()) return true;
    Stages& a = *broken;
    Stages& b = paths[random.below(paths.size())];
    const Stages old_a = a, old_b = b;
    const int before = disorder(a, rules) + disorder(b, rules);
    if (!rules.equal_exposure) {
      replace_stage(a, stage_count, random);
    } else if (&a == &b || !exchange_stages(a, b, random)) {
      continue;
    }
    if (disorder(a, rules) + disorder(b, rules) > before) {
      a = old_a;
      b = old_b;
    }
  }
  return false;
}

// The replica with the least computing so far, in seconds.
int least_loaded(const PlanRequest& request, const std::vector<int>& replicas, std::vector<double>& load, int layers) {
  int best = -1;
  double best_load = 0;
  for (const int node : replicas) {
    const NetworkNode& speed = request.network.nodes[static_cast<size_t>(node)];
    const double after = load[static_cast<size_t>(node)] + speed.forward_s * layers * (1 + speed.backward_over_forward);
    if (best >= 0 && after >= best_load) continue;
    best = node;
    best_load = after;
  }
  load[static_cast<size_t>(best)] = best_load;
  return best;
}

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

PlanResult no_paths(const PlanRequest& request, int length) {
  const double exposure = static_cast<double>(request.microbatches) * (length - 1) / (request.stage_count() - 1);
  if (!request.rules.equal_exposure)
    return {.rule = "C3",
            .why = fmt::format("no path of {} of {} stages found whose visits go at most {} past the furthest", length,
                               request.stage_count(), request.rules.max_jump)};
  return {
      .rule = "C4",
      .why = fmt::format("no paths of {} of {} stages found that visit every stage but the first {} to {} times with "
                         "{} microbatches while C3 allows jumps of at most {}",
                         length, request.stage_count(), std::floor(exposure), std::ceil(exposure), request.microbatches,
                         request.rules.max_jump)};
}

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
    place(request, paths, start);
    return search(request, std::move(start), SkipMoves(request.rules, stages, request.stages.empty()), random);
  }

 private:
  static void place(const PlanRequest& request, const std::vector<Stages>& paths, Plan& plan) {
    std::vector<double> load(request.network.nodes.size(), 0);
    for (size_t m = 0; m < paths.size(); ++m) {
      for (size_t i = 0; i <= paths[m].size(); ++i) {
        const auto stage = static_cast<size_t>(i == 0 ? 0 : paths[m][i - 1]);
        plan.microbatches[m].visits[i].node =
            least_loaded(request, plan.stages[stage], load, request.workload.stage_layers[stage]);
      }
    }
  }
};

}  // namespace

std::unique_ptr<Planner> make_joint_planner() { return std::make_unique<SkipPlanner>(); }

}  // namespace skippipe
