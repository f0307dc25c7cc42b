#include "comm/control/clock_offset.h"

namespace skippipe {

// Quartz clocks are off by less than 50 parts per million each.
constexpr double kDriftPerSecond = 1e-4;
constexpr int64_t kLatestNs = 4'000'000'000'000'000'000;  // 127 years after the start of a machine

int64_t steady_ns(Clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

void ClockComparison::answered(int64_t sent_ns, int64_t peer_ns, int64_t now_ns) {
  if (sent_ns < 0 || sent_ns > now_ns) return;     // no answer to us
  if (peer_ns < 0 || peer_ns > kLatestNs) return;  // no clock
  const double error_s = static_cast<double>(now_ns - sent_ns) * 0.5e-9;
  const double age_s = static_cast<double>(now_ns - best_at_ns_) * 1e-9;
  if (best_ && error_s > best_->error_s + age_s * kDriftPerSecond) return;
  const double middle_s = static_cast<double>(sent_ns) * 1e-9 + error_s;
  best_ = {static_cast<double>(peer_ns) * 1e-9 - middle_s, error_s};
  best_at_ns_ = now_ns;
}

}  // namespace skippipe
