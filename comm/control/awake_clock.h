// Time that passes only while this process runs. A process that was stopped (SIGSTOP, a frozen container, a suspended
// job) finds on its return that hours have passed in which it heard nothing: that is no peer's silence.
#pragma once

#include "comm/control/clock_offset.h"

namespace skippipe {

// A steady clock that its owner looks at again and again: a step from one look to the next that is longer than
// longest_step counts as longest_step. So a loop that is slow sees limits late, one that was stopped for long hardly
// notices, and no limit is put off for ever as long as somebody looks. One thread.
class AwakeClock {
 public:
  explicit AwakeClock(Clock::duration longest_step, Clock::time_point start = Clock::now())
      : longest_step_(longest_step), last_look_(start) {}

  // The time here, when the steady clock says `steady`.
  Clock::time_point at(Clock::time_point steady);
  Clock::time_point now() { return at(Clock::now()); }
  // When the steady clock will say so, if nothing intervenes.
  Clock::time_point steady(Clock::time_point here) const { return here + missed_; }
  Clock::time_point last_look() const { return last_look_; }  // of the steady clock

  // Of the last step that was too long: what was not counted, and the time here at its end.
  Clock::duration last_sleep() const { return last_sleep_; }
  Clock::time_point woke() const { return woke_; }

 private:
  Clock::duration longest_step_;
  Clock::time_point last_look_;
  Clock::duration missed_{0};  // all that was not counted
  Clock::duration last_sleep_{0};
  Clock::time_point woke_{};
};

// A limit on a wait, in that time. One thread.
class Patience {
 public:
  explicit Patience(std::chrono::duration<double> limit, Clock::time_point start = Clock::now());

  // The wait begins anew.
  void restart(Clock::time_point now = Clock::now());
  // To be asked again and again: at due(), or before.
  bool is_over(Clock::time_point now = Clock::now()) { return clock_.at(now) >= end_; }
  // When to ask again at the latest; never more than a second away.
  Clock::time_point due() const;

 private:
  Clock::duration limit_;
  AwakeClock clock_;
  Clock::time_point end_;
};

// How long this machine has been suspended since it was started: steady clocks stand still meanwhile, the peers' do
// not.
Clock::duration machine_sleep();

}  // namespace skippipe
