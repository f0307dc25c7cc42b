// The nodes of one run as child processes on this machine, from their start to the end of the last one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tools/processes/processes.h"
#include "tools/processes/stop_signals.h"

namespace skippipe {

// What nodes write to standard error is passed on with their names; the last words of one that fails are kept, and told
// once, for the node that began it. One thread; make it before any other thread starts, for its stop signals.
class NodeProcesses {
 public:
  // stop_notice is printed when Ctrl-C asks the nodes to stop.
  explicit NodeProcesses(std::string stop_notice);

  // Runs this program with these arguments as a node; it inherits the descriptor (-1: none). Throws RunError.
  void start(std::string name, const std::vector<std::string>& arguments, int inherited_fd);

  // Waits until all have ended. Throws RunError, saying which node failed and why, and Exit after Ctrl-C.
  void wait();

 private:
  struct Failure {
    int child;
    int code;
  };

  void on_line(int child, const std::string& line);
  void on_exit(int child, int code);
  void interrupt();
  void end_the_others();
  const Failure& first_failure() const;
  std::string story() const;
  const std::string& name_of(int child) const { return names_[static_cast<size_t>(child)]; }

  const std::string stop_notice_;
  StopSignals stop_;
  std::vector<std::string> names_;         // by child
  std::map<int, std::string> last_words_;  // by child
  std::vector<Failure> failures_;          // in the order in which they were seen
  bool failed_ = false;
  bool interrupted_ = false;
  bool ending_ = false;  // because of a failure
  Processes processes_;
};

}  // namespace skippipe
