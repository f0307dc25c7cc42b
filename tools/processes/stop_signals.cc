#include "tools/processes/stop_signals.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace skippipe {
namespace {

bool is_ignored(int signal) {
  struct sigaction current {};
  return sigaction(signal, nullptr, &current) == 0 && current.sa_handler == SIG_IGN;
}

}  // namespace

Stop StopRule::on_signal(int signal, std::chrono::steady_clock::time_point now) {
  const bool asks = signal == SIGINT || signal == SIGTERM;
  const bool asks_again = asks && first_asked_ && now - *first_asked_ >= same_stop_;
  if (asks && !first_asked_) first_asked_ = now;
  if (!std::exchange(stopping_, true)) return Stop::kInTime;
  return asks_again ? Stop::kAtOnce : Stop::kNot;
}

StopSignals::StopSignals(std::chrono::milliseconds same_stop) : rule_(same_stop) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGXCPU}) sigaddset(&set, signal);
  if (!is_ignored(SIGHUP)) sigaddset(&set, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  fd_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  SKP_CHECK(fd_ >= 0, "signalfd");
}

StopSignals::~StopSignals() { close(fd_); }

Stop StopSignals::take() {
  Stop stop = Stop::kNot;
  signalfd_siginfo info;
  while (read(fd_, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    const int signal = static_cast<int>(info.ssi_signo);
    stop = std::max(stop, rule_.on_signal(signal, std::chrono::steady_clock::now()));
    last_ = std::string("SIG") + sigabbrev_np(signal);
  }
  return stop;
}

StopWatcher::StopWatcher(StopSignals& signals, std::function<void()> on_first) : quit_fd_(eventfd(0, EFD_CLOEXEC)) {
  SKP_CHECK(quit_fd_ >= 0, "eventfd");
  thread_ = std::thread([this, &signals, on_first = std::move(on_first)] {
    while (true) {
      pollfd fds[] = {{signals.fd(), POLLIN, 0}, {quit_fd_, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0) continue;
      if (fds[1].revents != 0) return;
      const Stop stop = signals.take();
      if (stop == Stop::kInTime) on_first();
      if (stop == Stop::kAtOnce) _exit(130);
    }
  });
}

StopWatcher::~StopWatcher() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(quit_fd_, &one, sizeof(one));
  thread_.join();
  close(quit_fd_);
}

}  // namespace skippipe
