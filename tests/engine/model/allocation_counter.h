// Counts what this program takes by operator new.
#pragma once

#include <cstdint>

namespace skippipe::test {

// Counts while it lives, over all threads; one at a time. The bookkeeping that oneDNN allocates within each call of a
// primitive (some hundred bytes, freed before the call returns) is not counted: it is not ours to avoid.
class AllocationCounter {
 public:
  AllocationCounter();
  ~AllocationCounter();
  AllocationCounter(const AllocationCounter&) = delete;
  AllocationCounter& operator=(const AllocationCounter&) = delete;

  int64_t count() const;
};

}  // namespace skippipe::test
