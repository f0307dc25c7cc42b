// Fork and join over OpenMP threads. Every parallel region of our own goes through fork_join, so that there is one
// place that tells the thread sanitizer about OpenMP's barriers (libgomp is not instrumented).
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#define SKP_NO_THREAD_SANITIZER __attribute__((no_sanitize("thread")))
#else
#define SKP_NO_THREAD_SANITIZER
#endif

namespace skippipe::cpu {

inline void sanitizer_acquire([[maybe_unused]] void* address) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(address);
#endif
}

inline void sanitizer_release([[maybe_unused]] void* address) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(address);
#endif
}

// body(thread, threads) on `threads` threads, the caller among them. The body must not throw.
template <typename Body>
SKP_NO_THREAD_SANITIZER void fork_join(int threads, const Body& body) {
  if (threads <= 1) {
    body(0, 1);
    return;
  }
  char fork = 0, join = 0;
  sanitizer_release(&fork);
#pragma omp parallel num_threads(threads)
  {
    sanitizer_acquire(&fork);
    body(omp_get_thread_num(), omp_get_num_threads());
    sanitizer_release(&join);
  }
  sanitizer_acquire(&join);
}

// body(begin, end) over [0, count) in one contiguous range per thread; no thread for fewer than `grain` items.
template <typename Body>
void parallel_ranges(int threads, int64_t count, int64_t grain, const Body& body) {
  const int64_t useful = std::max<int64_t>(1, count / std::max<int64_t>(1, grain));
  fork_join(static_cast<int>(std::min<int64_t>(threads, useful)), [&](int thread, int of) {
    const int64_t begin = count * thread / of, end = count * (thread + 1) / of;
    if (begin < end) body(begin, end);
  });
}

// body(thread, item) for each item of [0, count), handed out in a fixed order to the threads.
template <typename Body>
void parallel_items(int threads, int64_t count, const Body& body) {
  fork_join(static_cast<int>(std::min<int64_t>(threads, count)), [&](int thread, int of) {
    for (int64_t item = thread; item < count; item += of) body(thread, item);
  });
}

// Elements below which a memory-bound loop is not worth another thread.
inline constexpr int64_t kElementGrain = 16384;

// Rows per thread so that each gets at least kElementGrain elements.
inline int64_t row_grain(int64_t columns) { return std::max<int64_t>(1, kElementGrain / columns); }

}  // namespace skippipe::cpu
