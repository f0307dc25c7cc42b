#include "tools/verbs/node_processes.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <iostream>

#include "base/error.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

using std::chrono::milliseconds;

// How long the other nodes may take to end by themselves once one has failed.
constexpr milliseconds kEndLimit(2000);
constexpr char kErrorPrefix[] = "skippipe: ";
constexpr int kStopped = 130;  // exit code of a node that was asked to end

}  // namespace

NodeProcesses::NodeProcesses(std::string stop_notice)
    : stop_notice_(std::move(stop_notice)),
      processes_([this](int child, const std::string& line) { on_line(child, line); },
                 [this](int child, int code) { on_exit(child, code); }) {}

void NodeProcesses::start(std::string name, const std::vector<std::string>& arguments, int inherited_fd) {
  names_.push_back(std::move(name));
  std::vector<std::string> command = {"/proc/self/exe"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  processes_.start(command, inherited_fd);
}

void NodeProcesses::wait() {
  while (processes_.running() > 0 && !failed_) {
    processes_.wait(stop_.fd(), milliseconds(1000));
    switch (stop_.take()) {
      case Stop::kNot:
        break;
      case Stop::kInTime:
        interrupt();
        break;
      case Stop::kAtOnce:
        processes_.signal_all(SIGKILL);
        std::cerr << "stopped at once\n";
        throw Exit{kStopped};
    }
  }
  if (failed_) end_the_others();
  if (failed_) throw RunError(story());
  if (interrupted_) throw Exit{kStopped};
}

void NodeProcesses::on_line(int child, const std::string& line) {
  // A node's last words; told once, for the node that began it.
  if (line.starts_with(kErrorPrefix)) {
    last_words_[child] = line.substr(sizeof(kErrorPrefix) - 1);
  } else {
    std::cerr << name_of(child) << ": " << line << "\n";
  }
}

void NodeProcesses::on_exit(int child, int code) {
  if (code == 0) return;
  // A node that was asked by itself ends the run of all, when they have agreed on the last iteration.
  if (code == kStopped && !ending_ && !interrupted_) {
    std::cerr << name_of(child) << " was stopped, and the run with it\n";
    interrupted_ = true;
  }
  // What being stopped makes nodes end with.
  const bool stopped = code == kStopped || code == -SIGTERM;
  if (((interrupted_ || ending_) && stopped) || (interrupted_ && code == 3)) return;
  failed_ = true;
  failures_.push_back({child, code});
}

void NodeProcesses::interrupt() {
  interrupted_ = true;
  std::cerr << "\n" << (stop_.last() == "SIGINT" ? "" : stop_.last() + ": ") << stop_notice_ << "\n";
  processes_.signal_all(SIGTERM);
}

// Nodes that see another one fail end by themselves, and have last words to say.
void NodeProcesses::end_the_others() {
  ending_ = true;
  processes_.signal_all(SIGTERM);
  processes_.wait(-1, kEndLimit);
  const size_t by_themselves = failures_.size();
  processes_.signal_all(SIGKILL);
  processes_.wait(-1, kEndLimit);
  failures_.resize(by_themselves);
}

// The node that began it: killed, or failed for a reason of its own; else the first to see another fail.
const NodeProcesses::Failure& NodeProcesses::first_failure() const {
  const auto weight = [](const Failure& failure) { return failure.code < 0 ? 0 : failure.code != 3 ? 1 : 2; };
  return *std::min_element(failures_.begin(), failures_.end(),
                           [&](const Failure& a, const Failure& b) { return weight(a) < weight(b); });
}

std::string NodeProcesses::story() const {
  const Failure& first = first_failure();
  const auto words = last_words_.find(first.child);
  if (first.code < 0)
    return fmt::format("{} was killed by signal {} ({}); the run ended", name_of(first.child), -first.code,
                       strsignal(-first.code));
  return fmt::format("{}: {}", name_of(first.child),
                     words != last_words_.end() ? words->second : fmt::format("ended with exit code {}", first.code));
}

}  // namespace skippipe
