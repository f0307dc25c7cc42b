// The lines that show how a training run goes.
#pragma once

#include <chrono>
#include <cstdint>

#include "engine/node/node.h"

namespace skippipe {

// On a terminal one line that is written over, elsewhere a plain line every few seconds, on standard output.
class TrainingProgress {
 public:
  TrainingProgress(uint32_t first_iteration, uint32_t iterations);
  void show(const IterationReport& report);

 private:
  using Clock = std::chrono::steady_clock;

  const uint32_t first_iteration_, iterations_;
  const bool terminal_;
  Clock::time_point next_line_;
  double seconds_ = 0;  // of all iterations since the first
};

}  // namespace skippipe
