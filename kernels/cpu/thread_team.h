// How many threads OpenMP really gives. Asked for n it may give fewer: OMP_THREAD_LIMIT, OMP_MAX_ACTIVE_LEVELS and, on
// a busy machine, OMP_DYNAMIC see to that. Our own kernels are right with any team (parallel.h tells them its size);
// oneDNN splits its work by the number that it is told, and leaves undone what threads that are not there should do.
#pragma once

#include <omp.h>

#include <thread>

namespace skippipe::cpu {

// Keeps OpenMP from giving the calling thread's regions fewer threads when the machine is busy, until the end.
class ScopedFixedTeams {
 public:
  ScopedFixedTeams() : before_(omp_get_dynamic()) { omp_set_dynamic(0); }
  ~ScopedFixedTeams() { omp_set_dynamic(before_); }
  ScopedFixedTeams(const ScopedFixedTeams&) = delete;
  ScopedFixedTeams& operator=(const ScopedFixedTeams&) = delete;

 private:
  int before_;
};

// What the calling thread's regions have where they ask for `asked`, seen in one. Needs ScopedFixedTeams to last.
int measure_team(int asked);

// Tells libraries that read OpenMP's setting how many threads the calling thread's regions have, until the end: as many
// as asked for, or those that there are.
class TeamForLibraries {
 public:
  // What was measured last, for as long as it holds: settings are a thread's own. Not thread-safe.
  class Known {
   public:
    int size_of(int asked);

   private:
    struct Settings {
      std::thread::id thread;
      int asked = 0, thread_limit = 0, max_levels = 0, level = 0;
      bool operator==(const Settings&) const = default;
    };
    Settings settings_;
    int size_ = 0;
  };

  TeamForLibraries(Known& known, int asked) : before_(omp_get_max_threads()), size_(known.size_of(asked)) {
    omp_set_num_threads(size_);
  }
  ~TeamForLibraries() { omp_set_num_threads(before_); }
  TeamForLibraries(const TeamForLibraries&) = delete;
  TeamForLibraries& operator=(const TeamForLibraries&) = delete;

  int size() const { return size_; }

 private:
  ScopedFixedTeams fixed_;
  int before_;
  int size_;
};

}  // namespace skippipe::cpu
