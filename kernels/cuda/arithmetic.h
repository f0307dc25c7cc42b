// Small arithmetic that several kernels share.
#pragma once

#include "kernels/cuda/hardware.h"

namespace skippipe::SKP_GPU {

template <typename Int, typename By>
constexpr Int divide_up(Int value, By by) {
  return (value + static_cast<Int>(by) - 1) / static_cast<Int>(by);
}

inline constexpr float kLog2E = 1.44269504088896341f;
// e^x by the hardware's power of two: relative error of about 2^-22, and 2^-24 |x| for the rounded exponent.
SKP_DEVICE float fast_exp(float x) { return fast_exp2(x * kLog2E); }

}  // namespace skippipe::SKP_GPU
