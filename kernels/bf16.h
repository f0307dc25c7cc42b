// The element type of bf16 tensors on the host.
#pragma once

#include <cstdint>

#include "base/float_formats.h"

namespace skippipe {

// Reads as a float, and is made from one by rounding to nearest, ties to even; a NaN stays one.
struct Bf16 {
  uint16_t bits;

  Bf16() = default;
  explicit Bf16(float value) : bits(float_to_bf16(value)) {}
  operator float() const { return bf16_to_float(bits); }  // NOLINT
};
static_assert(sizeof(Bf16) == 2);

}  // namespace skippipe
