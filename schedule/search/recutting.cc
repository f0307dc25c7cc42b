#include "schedule/search/recutting.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "schedule/search/capacity.h"
#include "schedule/search/planning.h"

namespace skippipe {
namespace {

constexpr double kSearchedVisits = 2e7;          // by default, forward and backward: some three seconds
constexpr int64_t kMaxBytes = int64_t{1} << 50;  // as plan files

int sum(const std::vector<int>& layers) { return std::accumulate(layers.begin(), layers.end(), 0); }

// What stages of a model take, in as many bytes as a plan's file may say at most.
class StageBytes {
 public:
  StageBytes(const std::vector<int>& layers, const std::vector<int64_t>& bytes) {
    for (size_t s = 1; s < layers.size(); ++s)
      layer_bytes_ = std::max(layer_bytes_, (bytes[s] + layers[s] - 1) / layers[s]);
    first_bytes_ = std::max<int64_t>(0, bytes.front() - layers.front() * layer_bytes_);
  }

  int64_t of(size_t stage, int layers) const {
    const int64_t fixed = stage == 0 ? first_bytes_ : 0;
    if (layer_bytes_ > 0 && layers > (kMaxBytes - fixed) / layer_bytes_)
      throw ConfigError("a stage of {} layers would take more than {} bytes", layers, kMaxBytes);
    return fixed + layers * layer_bytes_;
  }

 private:
  int64_t layer_bytes_ = 0;  // of a layer
  int64_t first_bytes_ = 0;  // of stage 0 beside its layers
};

}  // namespace

Workload recut_workload(const Workload& workload, const std::vector<int>& stage_layers) {
  if (stage_layers == workload.stage_layers) return workload;
  if (sum(stage_layers) != sum(workload.stage_layers))
    throw ConfigError("stages of {} layers in all, expected the plan's {}", sum(stage_layers),
                      sum(workload.stage_layers));
  if (workload.stage_layers.size() == 1)
    throw ConfigError("a plan of one stage does not say what a layer takes: make a new plan, with --model");
  // Fewer layers than any stage had leave of its memory what no layer takes.
  const int first = workload.stage_layers.front();
  const int fewest = *std::min_element(workload.stage_layers.begin() + 1, workload.stage_layers.end());
  std::vector<int> counted = stage_layers;
  for (size_t s = 0; s < counted.size(); ++s) counted[s] = std::max(counted[s], s == 0 ? first : fewest);
  const auto cut = [&](const std::vector<int64_t>& bytes, const std::vector<int>& layers) {
    std::vector<int64_t> result;
    if (bytes.empty()) return result;
    const StageBytes taken(workload.stage_layers, bytes);
    for (size_t s = 0; s < layers.size(); ++s) result.push_back(taken.of(s, layers[s]));
    return result;
  };
  Workload result = workload;
  result.stage_layers = stage_layers;
  result.stage_gradient_bytes = cut(workload.stage_gradient_bytes, stage_layers);
  result.stage_state_bytes = cut(workload.stage_state_bytes, counted);
  result.stage_slot_bytes = cut(workload.stage_slot_bytes, counted);
  return result;
}

PlanResult recut(const Plan& old, const Network& network, int stages, const ReplanOptions& options) {
  require_valid(validate(old), "the plan to begin from");
  const int layers = sum(old.workload.stage_layers);
  if (stages < 1 || stages > layers)
    throw ConfigError("found {} stages, expected 1 to {}, as many as the plan's model has layers", stages, layers);
  const std::vector<int> left = nodes_left(old, network, options.gone);
  if (left.empty()) return {.rule = kStageNodesRule, .why = "no node is left"};
  PlanRequest request;
  request.network = subnetwork(network, left);
  request.rules = old.rules;
  request.workload = recut_workload(
      old.workload, stages == old.stage_count() ? old.workload.stage_layers : split_evenly(layers, stages));
  request.microbatches = static_cast<int>(old.microbatches.size());
  request.max_replica_delay_s = default_replica_delay_s(request.network, request.workload);
  request.seed = options.seed;
  skip_less_if_needed(request);
  request.budget = options.budget.value_or(SearchBudget{.evaluations = evaluations_of(request, kSearchedVisits)});
  if (request.budget.evaluations == 0 && request.budget.seconds == 0) request.budget.evaluations = 1;
  PlanResult result = make_planner("joint")->plan(request);
  if (result.plan) result.plan = widen(*result.plan, left, network);
  return result;
}

PlanResult recut_to_fit(const Plan& old, const Network& network, const ReplanOptions& options) {
  const auto left = static_cast<int>(nodes_left(old, network, options.gone).size());
  const int most = std::clamp(left, 1, std::max(1, sum(old.workload.stage_layers)));
  PlanResult first = recut(old, network, most, options);
  for (int stages = most - 1; stages >= 1 && !first.plan; --stages)
    if (PlanResult result = recut(old, network, stages, options); result.plan) return result;
  return first;
}

}  // namespace skippipe
