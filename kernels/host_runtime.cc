#include "kernels/host_runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/error.h"

namespace skippipe {
namespace {

size_t taken_bytes(int64_t bytes) {
  return static_cast<size_t>(std::max<int64_t>(bytes, 1));
}  // an empty map is an error

// Asking what is there takes some tenths of a millisecond; less than this decides nothing.
constexpr int64_t kWorthAsking = int64_t{16} << 20;

// The kernel promises more than there is, and kills whoever uses it.
void require_there(int64_t bytes) {
  const HostMemory memory = read_host_memory();
  const AvailableMemory& there = memory.tightest();
  if (bytes > there.bytes)
    throw MemoryError("{} bytes of memory are needed, but only {} are there ({})", bytes, there.bytes, there.bound);
}

}  // namespace

void* HostRuntime::do_allocate(Place, int64_t bytes) {
  const size_t taken = taken_bytes(bytes);
  if (bytes >= kWorthAsking) require_there(bytes);
  void* memory = mmap(nullptr, taken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw MemoryError("the host refused {} bytes", bytes);
  // Large pages spare the matrix products most of their misses in the page table; a wish that may be refused.
  madvise(memory, taken, MADV_HUGEPAGE);
  std::memset(memory, 0, taken);  // every page is there from now on
  return memory;
}

void HostRuntime::release(Place, void* memory, int64_t bytes) noexcept { munmap(memory, taken_bytes(bytes)); }

void HostRuntime::copy(Stream, void* to, const void* from, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));  // nothing may be nowhere
}

double HostRuntime::seconds(Stream, const std::function<void()>& queue_work) {
  const auto start = std::chrono::steady_clock::now();
  queue_work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace skippipe
