// The lines that show how a training run goes.
#pragma once

#include <chrono>
#include <cstdint>

#include "engine/run/pace.h"
#include "engine/run/run.h"

namespace skippipe {

// On a terminal one line that is written over, elsewhere a plain line every few seconds, on standard output. Between
// them, once, how the run compares with its plan, and who is slow.
class TrainingProgress {
 public:
  explicit TrainingProgress(const TrainingRun& run);
  void show(const IterationReport& report);

 private:
  using Clock = std::chrono::steady_clock;

  const uint32_t first_iteration_, iterations_;
  const bool terminal_;
  Clock::time_point next_line_;
  double seconds_ = 0;  // of all iterations since the first
  PaceWatch pace_;
};

}  // namespace skippipe
