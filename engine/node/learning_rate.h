// Learning-rate schedules: pure functions of the iteration.
#pragma once

#include <cstdint>
#include <string>

namespace skippipe {

enum class Schedule : uint8_t { kConstant, kCosine, kWarmupStableDecay };

// "constant", "cosine", "wsd". Throws ConfigError, naming the three, for anything else.
Schedule parse_schedule(const std::string& name);
const char* schedule_name(Schedule schedule);

struct LearningRate {
  Schedule schedule = Schedule::kConstant;
  double peak = 1e-3;
  int64_t warmup_iterations = 0;  // linear from peak / warmup_iterations up to peak
  int64_t total_iterations = 0;   // of the run; iterations past it stay at the end's value
  int64_t decay_iterations = 0;   // kWarmupStableDecay: the last ones, linear from peak to final_share * peak
  double final_share = 0.1;       // share of peak that cosine and warmup-stable-decay end at

  // For iteration 0, 1, ...
  double at(int64_t iteration) const;
  // Throws ConfigError naming the field, what was found and what was expected.
  void check() const;
};

}  // namespace skippipe
