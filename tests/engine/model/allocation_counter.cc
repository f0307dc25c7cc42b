#include "tests/engine/model/allocation_counter.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};

void note(const void* caller) {
  if (!counting.load(std::memory_order_relaxed)) return;
  Dl_info library;
  if (dladdr(caller, &library) != 0 && std::strstr(library.dli_fname, "libdnnl") != nullptr) return;
  allocations.fetch_add(1, std::memory_order_relaxed);
}

void* allocate(size_t bytes) {
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}

void* allocate_aligned(size_t bytes, std::align_val_t alignment) {
  const size_t step = static_cast<size_t>(alignment);
  if (void* memory = std::aligned_alloc(step, (bytes + step - 1) / step * step)) return memory;
  throw std::bad_alloc();
}

}  // namespace

namespace skippipe::test {

AllocationCounter::AllocationCounter() {
  allocations = 0;
  counting = true;
}
AllocationCounter::~AllocationCounter() { counting = false; }
int64_t AllocationCounter::count() const { return allocations.load(); }

}  // namespace skippipe::test

void* operator new(size_t bytes) {
  note(__builtin_return_address(0));
  return allocate(bytes);
}
void* operator new[](size_t bytes) {
  note(__builtin_return_address(0));
  return allocate(bytes);
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  note(__builtin_return_address(0));
  return allocate_aligned(bytes, alignment);
}
void* operator new[](size_t bytes, std::align_val_t alignment) {
  note(__builtin_return_address(0));
  return allocate_aligned(bytes, alignment);
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  note(__builtin_return_address(0));
  return std::malloc(bytes == 0 ? 1 : bytes);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
