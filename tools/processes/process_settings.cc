#include "tools/processes/process_settings.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <limits>

#include "base/error.h"
#include "comm/transport/ucx_worker.h"

namespace skippipe {
namespace {

// A system whose hard limit is low says so in require_open_files, with the numbers.
void raise_open_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

void let_openmp_sleep(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  constexpr char kSelf[] = "/proc/self/exe";
  std::error_code ignored;
  execv(std::filesystem::read_symlink(kSelf, ignored).c_str(), argv);  // by its name, which `ps` and `top` show
  execv(kSelf, argv);                                                  // has none any more
}

void settle_process() {
  give_back_signals_of_ucx();
  signal(SIGCHLD, SIG_DFL);  // ignored, exit codes would be lost
  signal(SIGXFSZ, SIG_IGN);  // a file at its limit (ulimit -f) is an error like a full disk, and no death
  raise_open_file_limit();
}

uint64_t open_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return std::numeric_limits<uint64_t>::max();
  return limit.rlim_cur;
}

uint64_t open_files_of_node(int nodes) { return 32 + 2 * static_cast<uint64_t>(nodes); }

uint64_t open_files_of_launch(int nodes) { return 16 + 3 * static_cast<uint64_t>(nodes); }

void require_open_files(uint64_t needed, const std::string& who) {
  if (open_file_limit() >= needed) return;
  throw RunError(
      "{} needs up to {} open files, this process may have {}: raise the hard limit of open files (ulimit -Hn)", who,
      needed, open_file_limit());
}

}  // namespace skippipe
