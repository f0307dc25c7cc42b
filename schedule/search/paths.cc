#include "schedule/search/paths.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "schedule/plan/rules.h"
#include "schedule/search/planning.h"

namespace skippipe {
namespace {

constexpr size_t kRepairsPerMicrobatch = 2000;
constexpr size_t kMostPathsLookedAt = 50'000'000;  // a repair looks at all paths

// Exchanges a stage between two paths (keeps C4) and sorts both.
bool exchange_stages(PathStages& a, PathStages& b, Random& random) {
  const int i = random_difference(a, b, random);
  const int j = random_difference(b, a, random);
  if (i < 0 || j < 0) return false;
  std::swap(a[static_cast<size_t>(i)], b[static_cast<size_t>(j)]);
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return true;
}

// One stage of a path becomes another; where exposure is equal, only if that keeps the numbers that the stages serve as
// they are but for their order, and else if it leaves none without a path.
void replace_stage(PathStages& path, std::vector<int>& served, bool equal_exposure, Random& random) {
  const auto stage = 1 + static_cast<int>(random.below(served.size() - 1));
  if (path.empty() || contains(path, stage)) return;
  int& replaced = path[random.below(path.size())];
  int& more = served[static_cast<size_t>(replaced)];
  int& less = served[static_cast<size_t>(stage)];
  if (more <= (equal_exposure ? less : 1)) return;
  --more;
  ++less;
  replaced = stage;
  std::sort(path.begin(), path.end());
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

}  // namespace

int disorder(const PathStages& path, const PlanRules& rules) {
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

bool contains(const PathStages& path, int stage) { return std::find(path.begin(), path.end(), stage) != path.end(); }

int random_difference(const PathStages& path, const PathStages& other, Random& random) {
  int found = -1;
  uint64_t seen = 0;
  for (size_t i = 0; i < path.size(); ++i)
    if (!contains(other, path[i]) && random.below(++seen) == 0) found = static_cast<int>(i);
  return found;
}

std::vector<PathStages> balanced_stages(size_t microbatches, size_t length, int stage_count, Random& random) {
  std::vector<PathStages> paths(microbatches);
  std::vector<int> served(static_cast<size_t>(stage_count), 0);
  PathStages order(static_cast<size_t>(stage_count - 1));
  for (PathStages& path : paths) {
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

bool repair_jumps(std::vector<PathStages>& paths, const PlanRules& rules, int stage_count, Random& random) {
  std::vector<int> served(static_cast<size_t>(stage_count), 0);
  for (const PathStages& path : paths)
    for (const int stage : path) ++served[static_cast<size_t>(stage)];
  const size_t most_tries = std::min(paths.size() * kRepairsPerMicrobatch, kMostPathsLookedAt / (paths.size() + 1));
  for (size_t tries = 0; tries < most_tries; ++tries) {
    const auto broken =
        std::find_if(paths.begin(), paths.end(), [&](const PathStages& p) { return disorder(p, rules) > 0; });
    if (broken == paths.end()) return true;
    PathStages& a = *broken;
    PathStages& b = paths[random.below(paths.size())];
    const PathStages old_a = a, old_b = b;
    const std::vector<int> old_served = served;
    const int before = disorder(a, rules) + disorder(b, rules);
    if (!rules.equal_exposure || random.below(4) == 0) {
      replace_stage(a, served, rules.equal_exposure, random);
    } else if (&a == &b || !exchange_stages(a, b, random)) {
      continue;
    }
    if (disorder(a, rules) + disorder(b, rules) > before) {
      a = old_a;
      b = old_b;
      served = old_served;
    }
  }
  return false;
}

std::optional<std::vector<PathStages>> draw_stages(const PlanRequest& request, size_t count, int length,
                                                   Random& random) {
  if (length == 1) return std::vector<PathStages>(count);
  std::vector<PathStages> paths =
      balanced_stages(count, static_cast<size_t>(length - 1), request.stage_count(), random);
  if (!repair_jumps(paths, request.rules, request.stage_count(), random)) return std::nullopt;
  return paths;
}

void place_by_load(const PlanRequest& request, const std::vector<PathStages>& paths, Plan& plan) {
  std::vector<double> load(request.network.nodes.size(), 0);
  for (size_t m = 0; m < paths.size(); ++m) {
    for (size_t i = 0; i <= paths[m].size(); ++i) {
      const auto stage = static_cast<size_t>(i == 0 ? 0 : paths[m][i - 1]);
      plan.microbatches[m].visits[i].node =
          least_loaded(request, plan.stages[stage], load, request.workload.stage_layers[stage]);
    }
  }
}

PlanResult no_paths(const PlanRequest& request, int length) {
  const double exposure = static_cast<double>(request.microbatches) * (length - 1) / (request.stage_count() - 1);
  if (!request.rules.equal_exposure)
    return {.rule = kExposureRule,
            .why = fmt::format("no paths of {} of {} stages found that visit every stage with {} microbatches while "
                               "paths jump {} stages at most",
                               length, request.stage_count(), request.microbatches, request.rules.max_jump)};
  return {
      .rule = kExposureRule,
      .why = fmt::format("no paths of {} of {} stages found that visit every stage but the first {} to {} times with "
                         "{} microbatches while paths jump {} stages at most",
                         length, request.stage_count(), std::floor(exposure), std::ceil(exposure), request.microbatches,
                         request.rules.max_jump)};
}

TaskSeconds task_seconds(const PlanRequest& request, int node, size_t stage) {
  return task_seconds(request.network.nodes[static_cast<size_t>(node)], request.workload, stage);
}

double forward_s(const PlanRequest& request, int node, size_t stage) {
  return task_seconds(request, node, stage).forward_s;
}

double backward_s(const PlanRequest& request, int node, size_t stage) {
  return task_seconds(request, node, stage).backward_s;
}

double loss_s(const PlanRequest& request, int data_node) { return task_seconds(request, data_node, 0).loss_s; }

double message_s(const PlanRequest& request, int from, int to) {
  return request.network.link(from, to).transfer_s(static_cast<double>(request.workload.activation_bytes));
}

double round_trip_s(const PlanRequest& request, int a, int b) {
  return message_s(request, a, b) + message_s(request, b, a);
}

}  // namespace skippipe
