// Counts heap allocations of a test or benchmark program: link counted_new.cc into it. (In a file of its own, so that
// the compiler doesn't inline half of each pair and take them for mismatched.)
#pragma once

#include <cstdint>

namespace skippipe::test {

// operator new calls of this thread so far.
uint64_t allocations();

}  // namespace skippipe::test
