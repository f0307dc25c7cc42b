#include "tests/schedule/counted_new.h"

#include <cstdlib>
#include <new>

namespace {
thread_local uint64_t count = 0;
}

void* operator new(size_t bytes) {
  ++count;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
// Sanitizers bring a non-throwing one of their own, which would not match our delete.
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  ++count;
  return std::malloc(bytes);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace skippipe::test {

uint64_t allocations() { return count; }

}  // namespace skippipe::test
