#include "kernels/cpu/thread_team.h"

#include "kernels/cpu/parallel.h"

namespace skippipe::cpu {

int measure_team(int asked) {
  int size = 1;
  fork_join(asked, [&](int thread, int of) {
    if (thread == 0) size = of;
  });
  return size;
}

int TeamForLibraries::Known::size_of(int asked) {
  const Settings now{std::this_thread::get_id(), asked, omp_get_thread_limit(), omp_get_max_active_levels(),
                     omp_get_active_level()};
  if (now != settings_) {
    size_ = measure_team(asked);
    settings_ = now;
  }
  return size_;
}

}  // namespace skippipe::cpu
