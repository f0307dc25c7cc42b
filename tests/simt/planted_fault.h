// For tests of what the execution of kernels on the CPU (block.h) must notice. A planted fault is a kernel that can do
// without it: with `sound` the same kernel passes.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/context.h"
#include "kernels/cuda/hardware.h"

namespace skippipe::simt {

inline constexpr int64_t kSharedBytes = 4096;
inline constexpr int kLaunches = 8;  // each in another order

struct Size {
  int threads;
  Grid grid = {};
  int64_t bytes = kSharedBytes;
};

// What the execution throws, or nothing.
inline std::string error_of(const Size& size, const std::function<void()>& kernel) {
  try {
    Block::run_grid(Launch(Context{}, "tested", size.grid, size.threads, size.bytes), kernel);
  } catch (const KernelError& error) {
    return error.what();
  }
  return "";
}

inline void expect_sound(const Size& size, const std::function<void()>& kernel) {
  for (int i = 0; i < kLaunches; ++i) EXPECT_EQ(error_of(size, kernel), "");
}

inline void expect_fault(const char* message, const Size& size, const std::function<void(bool sound)>& kernel) {
  expect_sound(size, [&] { kernel(true); });
  for (int i = 0; i < kLaunches; ++i)
    EXPECT_THAT(error_of(size, [&] { kernel(false); }), ::testing::HasSubstr(message));
}

template <typename T>
Shared<T> shared(int count) {
  return SharedMemory().take<T>(count);
}

// Device memory with some more around it, so that accesses beside it do no harm.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : count_(count), all_(static_cast<size_t>(count + 2 * kMargin)) {
    std::iota(all_.begin() + kMargin, all_.end() - kMargin, T{});
  }
  Global<T> global() { return {all_.data() + kMargin, count_}; }
  Global<const T> constant() { return global(); }
  std::vector<T> get() const { return {all_.begin() + kMargin, all_.end() - kMargin}; }

 private:
  static constexpr int64_t kMargin = 64;
  int64_t count_;
  std::vector<T> all_;
};

}  // namespace skippipe::simt
