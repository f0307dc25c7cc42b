#include "schedule/ranking.h"

namespace skippipe {
namespace {

// Enough for the pipeline to fall into step; the steady time is the mean over all but the first.
constexpr uint32_t kPredictedIterations = 4;

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
    for (const int32_t microbatch : simulator.admitted(node)) {
      for (PlannedVisit& visit : plan.microbatches[static_cast<size_t>(microbatch)].visits)
        if (visit.node == node) visit.rank = rank;
      ++rank;
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
