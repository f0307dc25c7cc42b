// The signals that ask a verb to end, as a file descriptor, so that an event loop can wait for them beside everything
// else.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <thread>

namespace skippipe {

// What to do about a signal.
enum class Stop {
  kNot,     // nothing
  kInTime,  // end as well as possible
  kAtOnce,  // asked again: end
};

// Decides what a signal asks for: the first of any kind, to end in time. A second SIGINT or SIGTERM, later than the
// first of these by same_stop, asks again: a service manager and `launch` may both pass one stop on. SIGHUP (the
// terminal is gone) and SIGXCPU (the limit of processor time, sent each second) are no asking at all, however often
// they come.
class StopRule {
 public:
  explicit StopRule(std::chrono::milliseconds same_stop) : same_stop_(same_stop) {}
  Stop on_signal(int signal, std::chrono::steady_clock::time_point now);

 private:
  std::chrono::milliseconds same_stop_;
  bool stopping_ = false;
  std::optional<std::chrono::steady_clock::time_point> first_asked_;
};

// Takes SIGINT, SIGTERM, SIGXCPU and, unless it was ignored at the start (nohup), SIGHUP: blocks them in the calling
// thread and the threads it starts later. Whoever stops listening to what the verb tells does not end it: SIGPIPE is
// ignored. Make one early in main's thread.
class StopSignals {
 public:
  explicit StopSignals(std::chrono::milliseconds same_stop = std::chrono::milliseconds{0});
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // Readable while a signal waits to be taken.
  int fd() const { return fd_; }
  // Takes the signals that wait: the most urgent of what they ask for.
  Stop take();
  // The last one taken, for the user: "SIGHUP"; empty before the first.
  const std::string& last() const { return last_; }

 private:
  int fd_;
  StopRule rule_;
  std::string last_;
};

// Of a node: its service manager and its `launch` may both pass one stop on.
inline constexpr std::chrono::milliseconds kSameStop{500};

// For a program whose main thread does not poll: calls on_first, on a thread of its own, when it is to end, and ends
// the process with exit code 130 when that is to be at once. The destructor ends the watching.
class StopWatcher {
 public:
  StopWatcher(StopSignals& signals, std::function<void()> on_first);
  ~StopWatcher();
  StopWatcher(const StopWatcher&) = delete;
  StopWatcher& operator=(const StopWatcher&) = delete;

 private:
  int quit_fd_;
  std::thread thread_;
};

}  // namespace skippipe
