// Small arithmetic that several kernels share.
#pragma once

#include "kernels/cuda/hardware.h"

namespace skippipe::SKP_GPU {

template <typename Int, typename By>
constexpr Int divide_up(Int value, By by) {
  return (value + static_cast<Int>(by) - 1) / static_cast<Int>(by);
}

// Division by what the host knows, with no more than hardware does for values that all threads share: these then need
// no registers of their own. For what is below 2^31. (Granlund and Montgomery 1994.)
class Divisor {
 public:
  explicit Divisor(int value) : value_(value) {
    while ((int64_t{1} << shift_) < value) ++shift_;
    factor_ = static_cast<uint32_t>(divide_up(int64_t{1} << (31 + shift_), value));
  }
  constexpr int value() const { return value_; }
  SKP_DEVICE int quotient(int x) const {
    return static_cast<int>(static_cast<uint32_t>((static_cast<uint64_t>(x) * factor_) >> 31) >> shift_);
  }

 private:
  int value_, shift_ = 0;
  uint32_t factor_;
};

inline constexpr float kLog2E = 1.44269504088896341f;
// e^x by the hardware's power of two: relative error of about 2^-22, and 2^-24 |x| for the rounded exponent.
SKP_DEVICE float fast_exp(float x) { return fast_exp2(x * kLog2E); }

}  // namespace skippipe::SKP_GPU
