// What the nodes of a plan do between two iterations to measure the loss on held-out samples.
#pragma once

#include <cstdint>
#include <vector>

#include "schedule/plan/plan.h"

namespace skippipe {

// Forward passes and losses, no gradients. Microbatches are numbered in start order.
struct ValidationPlan {
  uint32_t interval = 0;  // after every so many iterations, and after the run's last; 0: never
  int batches = 0;        // of held-out samples
  // Batch b, through all stages in order, is microbatch b. Where paths of the plan skip or swap stages, it is also
  // microbatch batches + b, along the path of the plan's microbatch b mod M.
  std::vector<PlannedMicrobatch> microbatches;

  bool has_paths() const { return microbatches.size() > static_cast<size_t>(batches); }
  // Which of the held-out batches a microbatch is.
  int batch_of(int microbatch) const { return microbatch % batches; }
  bool passes_all_stages(int microbatch) const { return microbatch < batches; }
};

// A pure function of its arguments, so that nodes need not tell each other. Every node lets microbatches in by their
// numbers, so no paths can deadlock (schedule/SEARCH.md).
ValidationPlan plan_validation(const Plan& plan, uint32_t interval, int batches);

}  // namespace skippipe
