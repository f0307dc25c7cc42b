#include "kernels/host_runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "base/error.h"

namespace skippipe {
namespace {

// The number after `key` in a file of "key number" lines, or the file's only number if key is empty.
int64_t read_number(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) {
      const long long value = std::atoll(line.c_str() + key.size());
      return value > 0 ? value : std::numeric_limits<int64_t>::max();  // "max" is no number
    }
  return std::numeric_limits<int64_t>::max();
}

size_t taken_bytes(int64_t bytes) {
  return static_cast<size_t>(std::max<int64_t>(bytes, 1));
}  // an empty map is an error

}  // namespace

int64_t available_host_bytes() {
  const int64_t free_kib = read_number("/proc/meminfo", "MemAvailable:");
  int64_t result = free_kib > std::numeric_limits<int64_t>::max() / 1024 ? free_kib : free_kib * 1024;
  const int64_t limit = read_number("/sys/fs/cgroup/memory.max", "");
  const int64_t used = read_number("/sys/fs/cgroup/memory.current", "");
  if (limit < std::numeric_limits<int64_t>::max()) result = std::min(result, std::max<int64_t>(0, limit - used));
  return result;
}

void* HostRuntime::do_allocate(Place, int64_t bytes) {
  const size_t taken = taken_bytes(bytes);
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
