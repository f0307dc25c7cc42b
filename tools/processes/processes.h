// Child processes of a verb: started together, watched, ended together, none left behind.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace skippipe {

// A set of child processes. Used by one thread; SIGCHLD must not be ignored (process_settings.h). Children die with
// this process, however it ends (PR_SET_PDEATHSIG).
class Processes {
 public:
  // A line that a child wrote to standard error. Standard output is inherited.
  using LineHandler = std::function<void(int child, const std::string& line)>;
  // A child has ended: exit code, or -signal.
  using ExitHandler = std::function<void(int child, int code)>;

  Processes(LineHandler on_line, ExitHandler on_exit);
  // Kills what is left.
  ~Processes();
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  // Starts a program in a process group of its own, which inherits inherited_fd (-1: nothing); returns its index.
  // Throws RunError.
  int start(const std::vector<std::string>& arguments, int inherited_fd = -1);
  void signal_all(int signal);
  int running() const { return running_; }

  // Waits for output and exits and calls the handlers, until all children have ended, `interrupt_fd` (-1: none) is
  // readable, or the time is over.
  void wait(int interrupt_fd, std::chrono::milliseconds limit);

 private:
  struct Child {
    pid_t pid = -1;
    int pidfd = -1;      // readable once the child has ended; -1 after that was seen
    int stderr_fd = -1;  // -1 after end of file
    std::string partial_line;
  };
  void read_lines(int index);
  void reap(int index);

  LineHandler on_line_;
  ExitHandler on_exit_;
  std::vector<Child> children_;
  int running_ = 0;
};

}  // namespace skippipe
