#include "schedule/machine/ranking.h"

#include <algorithm>

namespace skippipe {
namespace {

// Enough for the pipeline to fall into step; the steady time is the mean over all but the first.
constexpr uint32_t kPredictedIterations = 4;

PlannedVisit& visit_of(Plan& plan, int32_t microbatch, int node) {
  std::vector<PlannedVisit>& visits = plan.microbatches[static_cast<size_t>(microbatch)].visits;
  return *std::ranges::find(visits, node, &PlannedVisit::node);
}

}  // namespace

void assign_priorities(Plan& plan) {
  const int count = static_cast<int>(plan.microbatches.size());
  for (int m = 0; m < count; ++m) {
    PlannedMicrobatch& microbatch = plan.microbatches[static_cast<size_t>(m)];
    microbatch.loss_priority = 2 * count - m;
    for (PlannedVisit& visit : microbatch.visits) {
      visit.forward_priority = count - m;
      visit.backward_priority = 3 * count - m;
    }
  }
}

bool complete_plan(Plan& plan, Simulator& simulator) {
  if (simulator.run(plan, {.admission = Admission::kAnySlot}).deadlock) return false;
  for (int node = 0; node < plan.node_count(); ++node) {
    int rank = 0;
    for (const int32_t microbatch : simulator.admitted(node)) visit_of(plan, microbatch, node).rank = rank++;
    rank = 0;
    for (const auto& [microbatch, kind] : simulator.gradient_passes(node)) {
      if (kind == TaskKind::kLoss)
        plan.microbatches[static_cast<size_t>(microbatch)].loss_rank = rank++;
      else
        visit_of(plan, microbatch, node).backward_rank = rank++;
    }
  }
  return predict(plan, simulator);
}

bool predict(Plan& plan, Simulator& simulator) {
  const Simulation& simulation = simulator.run(plan, {.iterations = kPredictedIterations});
  if (simulation.deadlock) return false;
  plan.predicted = {.iteration_s = simulation.iteration_s,
                    .steady_iteration_s = simulation.steady_iteration_s,
                    .waiting_share = simulation.waiting_share,
                    .busy_share = simulation.busy_share,
                    .bytes_sent = simulation.bytes_sent};
  return true;
}

}  // namespace skippipe
