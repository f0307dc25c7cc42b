// How far apart the steady clocks of two nodes are, from messages there and back.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace skippipe {

using Clock = std::chrono::steady_clock;

// A peer's steady clock says `seconds` more than ours, give or take error_s.
struct ClockOffset {
  double seconds = 0;
  double error_s = 0;
};

// Nanoseconds of our steady clock, as nodes tell them each other; their zero is the machine's own.
int64_t steady_ns(Clock::time_point time);

// Compares our clock with one peer's. Each answer bounds the offset by half its round trip (as NTP does, RFC 5905); the
// answer with the shortest round trip is kept, until it is so old that clocks may have drifted by more than another
// answer is worse. One thread.
class ClockComparison {
 public:
  // The peer got what we sent at `sent_ns` when its own clock said `peer_ns`, and its answer came at `now_ns`. Hostile
  // numbers are taken for what they are: they spoil the offset to the one peer that sent them.
  void answered(int64_t sent_ns, int64_t peer_ns, int64_t now_ns);

  // Nothing before the first answer.
  std::optional<ClockOffset> offset() const { return best_; }

 private:
  std::optional<ClockOffset> best_;
  int64_t best_at_ns_ = 0;
};

}  // namespace skippipe
