// SIGINT and SIGTERM as a file descriptor, so that an event loop can wait for them beside everything else.
#pragma once

#include <functional>
#include <thread>

namespace skippipe {

// Blocks SIGINT and SIGTERM in the calling thread and the threads it starts later. Make one early in main's thread.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // Readable while a signal waits to be taken.
  int fd() const { return fd_; }
  // Takes one signal; false if none waits.
  bool take();

 private:
  int fd_;
};

// For a program whose main thread does not poll: calls on_first at the first signal and ends the process with exit
// code 130 at the second, unless that comes at once: a service manager and `launch` may both pass one stop on. The
// destructor ends the watching.
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
