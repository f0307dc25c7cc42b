#include "schedule/plan/validation_plan.h"

#include <algorithm>

#include "base/error.h"

namespace skippipe {
namespace {

// Where the plan's microbatch visits a stage, at the same node.
PlannedMicrobatch through_all_stages(const Plan& plan, const PlannedMicrobatch& planned, size_t batch) {
  const std::vector<int> stage_of = plan.stage_of_nodes();
  PlannedMicrobatch microbatch;
  for (const std::vector<int>& nodes : plan.stages) microbatch.visits.push_back({.node = nodes[batch % nodes.size()]});
  for (const PlannedVisit& visit : planned.visits)
    microbatch.visits[static_cast<size_t>(stage_of[static_cast<size_t>(visit.node)])].node = visit.node;
  return microbatch;
}

bool same_path(const PlannedMicrobatch& a, const PlannedMicrobatch& b) {
  return std::ranges::equal(a.visits, b.visits, {}, &PlannedVisit::node, &PlannedVisit::node);
}

}  // namespace

ValidationPlan plan_validation(const Plan& plan, uint32_t interval, int batches) {
  SKP_CHECK(interval > 0 && batches > 0 && !plan.microbatches.empty());
  ValidationPlan validation{.interval = interval, .batches = batches, .microbatches = {}};
  const auto planned = [&](size_t batch) -> const PlannedMicrobatch& {
    return plan.microbatches[batch % plan.microbatches.size()];
  };
  const auto count = static_cast<size_t>(batches);
  for (size_t b = 0; b < count; ++b) validation.microbatches.push_back(through_all_stages(plan, planned(b), b));
  const bool others = std::ranges::any_of(plan.microbatches, [&](const PlannedMicrobatch& microbatch) {
    return !same_path(microbatch, through_all_stages(plan, microbatch, 0));
  });
  for (size_t b = 0; others && b < count; ++b) validation.microbatches.push_back({.visits = planned(b).visits});

  std::vector<int> visits(plan.node_names.size());
  const int last = static_cast<int>(validation.microbatches.size());
  for (int m = 0; m < last; ++m) {
    PlannedMicrobatch& microbatch = validation.microbatches[static_cast<size_t>(m)];
    microbatch.loss_priority = 2 * last - m;
    for (PlannedVisit& visit : microbatch.visits)
      visit = {.node = visit.node, .rank = visits[static_cast<size_t>(visit.node)]++, .forward_priority = last - m};
  }
  return validation;
}

}  // namespace skippipe
