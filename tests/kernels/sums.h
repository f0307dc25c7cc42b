// Work for a device whose result tells in which order it was done.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "kernels/elementwise.h"
#include "tests/kernels/test_device.h"

namespace skippipe::testing {

// Two tensors of small integers. A step adds the first to the second, once or twice, and the next step the second to
// the first, so that none may be left out, done twice or change places.
class Sums {
 public:
  static constexpr int64_t kCount = 100, kBytes = kCount * static_cast<int64_t>(sizeof(float));
  static constexpr int kSteps = 14;  // sums stay exact

  explicit Sums(TestDevice& device)
      : device_(device), memory_{device.allocate(kBytes), device.allocate(kBytes)}, expected_{numbers(), numbers()} {
    for (size_t i = 0; i < 2; ++i) runtime().copy(nullptr, memory_[i].get(), expected_[i].data(), kBytes);
    runtime().finish(nullptr);
  }

  void step(Stream stream) {
    Context ctx{&device_.backend(), 1, {}, stream};
    before_ = expected_;
    const size_t to = steps_ % 2;
    const float factor = steps_ % 3 == 0 ? 2 : 1;
    for (size_t i = 0; i < kCount; ++i) expected_[to][i] += factor * expected_[1 - to][i];
    accumulate(ctx, tensor(to), tensor(1 - to), factor);
    ++steps_;
  }
  // The last step was not done.
  void forget_step() {
    expected_ = before_;
    --steps_;
  }

  // What the last step's target should be, and a copy of what it is.
  const std::vector<float>& expected() const { return expected_[target()]; }
  void copy_to(Stream stream, void* to) { runtime().copy(stream, to, memory_[target()].get(), kBytes); }
  bool is_right(Stream stream) {
    std::vector<float> got(kCount);
    copy_to(stream, got.data());
    runtime().finish(stream);
    return got == expected();
  }
  void expect_right(Stream stream) { EXPECT_TRUE(is_right(stream)); }

 private:
  static std::vector<float> numbers() {
    std::vector<float> numbers;
    for (int i = 0; i < kCount; ++i) numbers.push_back(static_cast<float>(i % 3 + 1));
    return numbers;
  }
  Runtime& runtime() { return device_.backend().runtime(); }
  size_t target() const { return (steps_ + 1) % 2; }
  Tensor tensor(size_t i) { return {memory_[i].get(), {kCount}, Dtype::kF32, device_.backend().device()}; }

  TestDevice& device_;
  std::array<DeviceMemory, 2> memory_;
  std::array<std::vector<float>, 2> expected_, before_;
  size_t steps_ = 0;
};

}  // namespace skippipe::testing
