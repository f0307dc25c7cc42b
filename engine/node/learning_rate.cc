#include "engine/node/learning_rate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace skippipe {
namespace {

constexpr std::array kSchedules = {Schedule::kConstant, Schedule::kCosine, Schedule::kWarmupStableDecay};

// How far `iteration` has gone through [begin, end), in [0, 1].
double progress(int64_t iteration, int64_t begin, int64_t end) {
  if (end <= begin) return iteration < begin ? 0 : 1;
  return std::clamp(static_cast<double>(iteration - begin) / static_cast<double>(end - begin), 0.0, 1.0);
}

}  // namespace

const char* schedule_name(Schedule schedule) {
  switch (schedule) {
    case Schedule::kConstant:
      return "constant";
    case Schedule::kCosine:
      return "cosine";
    case Schedule::kWarmupStableDecay:
      return "wsd";
  }
  throw InternalError("no learning-rate schedule has the number {}", static_cast<int>(schedule));
}

Schedule parse_schedule(const std::string& name) {
  for (const Schedule schedule : kSchedules)
    if (name == schedule_name(schedule)) return schedule;
  throw ConfigError("learning-rate schedule: found '{}', expected 'constant', 'cosine' or 'wsd'", name);
}

double LearningRate::at(int64_t iteration) const {
  if (iteration < warmup_iterations)
    return peak * static_cast<double>(iteration + 1) / static_cast<double>(warmup_iterations);
  const double end = final_share * peak;
  switch (schedule) {
    case Schedule::kConstant:
      return peak;
    case Schedule::kCosine: {
      const double done = progress(iteration, warmup_iterations, total_iterations);
      return end + (peak - end) * 0.5 * (1 + std::cos(std::numbers::pi * done));
    }
    case Schedule::kWarmupStableDecay:
      return peak + (end - peak) * progress(iteration, total_iterations - decay_iterations, total_iterations);
  }
  throw InternalError("no learning-rate schedule has the number {}", static_cast<int>(schedule));
}

void LearningRate::check() const {
  if (!std::isfinite(peak) || peak < 0) throw ConfigError("peak learning rate: found {}, expected 0 or more", peak);
  if (!(final_share >= 0 && final_share <= 1))
    throw ConfigError("final share of the learning rate: found {}, expected 0 to 1", final_share);
  if (total_iterations < 0) throw ConfigError("total iterations: found {}, expected 0 or more", total_iterations);
  if (warmup_iterations < 0 || (schedule != Schedule::kConstant && warmup_iterations > total_iterations))
    throw ConfigError("warmup iterations: found {}, expected 0 to {}", warmup_iterations, total_iterations);
  if (schedule == Schedule::kWarmupStableDecay &&
      (decay_iterations < 0 || decay_iterations > total_iterations - warmup_iterations))
    throw ConfigError("decay iterations: found {}, expected 0 to {}, what warmup leaves of the run", decay_iterations,
                      total_iterations - warmup_iterations);
}

}  // namespace skippipe
