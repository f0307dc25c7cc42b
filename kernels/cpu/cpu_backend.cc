#include "kernels/cpu_backend.h"

#include <algorithm>
#include <latch>
#include <system_error>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/format.h"
#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/thread_team.h"

namespace skippipe {
namespace {

// OpenMP ends the process where it can't make a thread: it is not asked to before this.
void require_threads_beside_this(int count) {
  std::latch all_there(1);
  std::vector<std::jthread> threads;
  std::string problem;
  try {
    for (int i = 0; i < count; ++i) threads.emplace_back([&] { all_there.wait(); });
  } catch (const std::system_error& error) {
    problem = error.code().message();
  }
  all_there.count_down();
  if (!problem.empty())
    throw ConfigError(
        "the system made only {} of {} threads: {} (what limits them: ulimit -u, ulimit -v, a control group's "
        "pids.max)",
        threads.size() + 1, count + 1, problem);
}

std::string why_fewer_than(int asked) {
  if (omp_get_max_active_levels() < 1) return "OMP_MAX_ACTIVE_LEVELS is 0";
  if (omp_get_thread_limit() < asked) return format("OMP_THREAD_LIMIT is {}", omp_get_thread_limit());
  return "OpenMP gives no more";
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<cpu::CpuBackend>(); }

bool cpu_has_bf16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

CpuThreads cpu_threads(int asked) {
  if (asked <= 1) return {};
  require_threads_beside_this(std::min(asked, omp_get_thread_limit()) - 1);
  const cpu::ScopedFixedTeams fixed;
  const int count = cpu::measure_team(asked);
  return {count, count < asked ? why_fewer_than(asked) : ""};
}

}  // namespace skippipe
