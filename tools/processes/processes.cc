#include "tools/processes/processes.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "comm/control/awake_clock.h"

namespace skippipe {
namespace {

constexpr size_t kLongestLine = 16384;

// Only async-signal-safe calls between fork and exec.
[[noreturn]] void become(char* const* argv, int stderr_fd, int inherited_fd, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  setpgid(0, 0);  // a terminal's Ctrl-C is for the parent to pass on
  dup2(stderr_fd, STDERR_FILENO);
  if (inherited_fd >= 0) fcntl(inherited_fd, F_SETFD, 0);  // stays open over exec
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(argv[0], argv);
  static constexpr char kMessage[] = "skippipe: cannot execute the program again\n";
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
  _exit(127);
}

}  // namespace

Processes::Processes(LineHandler on_line, ExitHandler on_exit)
    : on_line_(std::move(on_line)), on_exit_(std::move(on_exit)) {}

Processes::~Processes() {
  signal_all(SIGKILL);
  for (Child& child : children_) {
    if (child.pidfd >= 0) {
      waitpid(child.pid, nullptr, 0);
      close(child.pidfd);
    }
    if (child.stderr_fd >= 0) close(child.stderr_fd);
  }
}

int Processes::start(const std::vector<std::string>& arguments, int inherited_fd) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) throw RunError("cannot make a pipe: {}", std::strerror(errno));
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) become(argv.data(), pipe_fds[1], inherited_fd, parent);
  const int fork_errno = errno;
  close(pipe_fds[1]);
  if (pid < 0) {
    close(pipe_fds[0]);
    throw RunError("cannot start process {}: {}", children_.size(), std::strerror(fork_errno));
  }
  fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
  Child child;
  child.pid = pid;
  child.stderr_fd = pipe_fds[0];
  child.pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (child.pidfd < 0) {
    const int open_errno = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    close(child.stderr_fd);
    throw RunError("cannot watch process {}: {}", children_.size(), std::strerror(open_errno));
  }
  children_.push_back(std::move(child));
  ++running_;
  return static_cast<int>(children_.size()) - 1;
}

void Processes::signal_all(int signal) {
  for (const Child& child : children_)
    if (child.pidfd >= 0) kill(child.pid, signal);
}

void Processes::wait(int interrupt_fd, std::chrono::milliseconds limit) {
  Patience patience(limit);
  while (running_ > 0) {
    std::vector<pollfd> fds{{interrupt_fd, POLLIN, 0}};
    for (const Child& child : children_) {
      fds.push_back({child.pidfd, POLLIN, 0});
      fds.push_back({child.stderr_fd, POLLIN, 0});
    }
    const bool last_look = patience.is_over();
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(patience.due() - Clock::now());
    const int nap_ms = last_look ? 0 : static_cast<int>(std::max<int64_t>(left.count(), 0));
    if (poll(fds.data(), fds.size(), nap_ms) < 0 && errno != EINTR)
      throw RunError("cannot wait for the nodes: {}", std::strerror(errno));
    for (size_t i = 0; i < children_.size(); ++i) {
      if (fds[2 + 2 * i].revents != 0) read_lines(static_cast<int>(i));
      if (fds[1 + 2 * i].revents != 0) reap(static_cast<int>(i));
    }
    if (fds[0].revents != 0 || last_look) return;
  }
}

void Processes::read_lines(int index) {
  Child& child = children_[static_cast<size_t>(index)];
  char buffer[4096];
  ssize_t n = 0;
  while (child.stderr_fd >= 0 && (n = read(child.stderr_fd, buffer, sizeof(buffer))) > 0) {
    child.partial_line.append(buffer, static_cast<size_t>(n));
    size_t end = 0;
    while ((end = child.partial_line.find('\n')) != std::string::npos || child.partial_line.size() > kLongestLine) {
      end = std::min(end, kLongestLine);
      on_line_(index, child.partial_line.substr(0, end));
      child.partial_line.erase(0, end + 1);
    }
  }
  if (n == 0 && child.stderr_fd >= 0) {
    if (!child.partial_line.empty()) on_line_(index, child.partial_line);
    close(std::exchange(child.stderr_fd, -1));
  }
}

void Processes::reap(int index) {
  read_lines(index);  // its last words
  Child& child = children_[static_cast<size_t>(index)];
  int status = 0;
  if (waitpid(child.pid, &status, WNOHANG) != child.pid) return;
  close(std::exchange(child.pidfd, -1));
  --running_;
  on_exit_(index, WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
}

}  // namespace skippipe
