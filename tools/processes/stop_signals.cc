#include "tools/processes/stop_signals.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <utility>

#include "base/error.h"

namespace skippipe {

constexpr std::chrono::milliseconds kSameStop(500);

StopSignals::StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  fd_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  SKP_CHECK(fd_ >= 0, "signalfd");
}

StopSignals::~StopSignals() { close(fd_); }

bool StopSignals::take() {
  signalfd_siginfo info;
  return read(fd_, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info));
}

StopWatcher::StopWatcher(StopSignals& signals, std::function<void()> on_first) : quit_fd_(eventfd(0, EFD_CLOEXEC)) {
  SKP_CHECK(quit_fd_ >= 0, "eventfd");
  thread_ = std::thread([this, &signals, on_first = std::move(on_first)] {
    std::optional<std::chrono::steady_clock::time_point> first;
    while (true) {
      pollfd fds[] = {{signals.fd(), POLLIN, 0}, {quit_fd_, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0) continue;
      if (fds[1].revents != 0) return;
      if (!signals.take()) continue;
      const auto now = std::chrono::steady_clock::now();
      if (first && now - *first < kSameStop) continue;
      if (first) _exit(130);
      first = now;
      on_first();
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
