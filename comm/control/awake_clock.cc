#include "comm/control/awake_clock.h"

#include <time.h>

#include <algorithm>

namespace skippipe {
namespace {

constexpr std::chrono::seconds kLookInterval{1};
constexpr std::chrono::seconds kLongestStep{2};  // between two looks that were meant to be kLookInterval apart

}  // namespace

Clock::time_point AwakeClock::at(Clock::time_point steady) {
  const Clock::duration step = steady - last_look_;
  last_look_ = std::max(last_look_, steady);
  if (step > longest_step_) {
    last_sleep_ = step - longest_step_;
    missed_ += last_sleep_;
    woke_ = last_look_ - missed_;
  }
  return last_look_ - missed_;
}

Patience::Patience(std::chrono::duration<double> limit, Clock::time_point start)
    : limit_(std::chrono::duration_cast<Clock::duration>(limit)), clock_(kLongestStep, start), end_(start + limit_) {}

void Patience::restart(Clock::time_point now) { end_ = clock_.at(now) + limit_; }

Clock::time_point Patience::due() const { return std::min(clock_.steady(end_), clock_.last_look() + kLookInterval); }

Clock::duration machine_sleep() {
  const auto read = [](clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  };
  return read(CLOCK_BOOTTIME) - read(CLOCK_MONOTONIC);
}

}  // namespace skippipe
