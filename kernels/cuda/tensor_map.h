// How bulk copies (hopper.h) see a tensor.
#pragma once

#include <cstdint>

#include "kernels/bf16.h"

namespace skippipe::cuda {

inline constexpr int kPanel = 64;  // columns of a box, and of a panel of a tile in shared memory

// A tensor (batch, tokens, heads, D) of bf16 in boxes of so many tokens of one head by kPanel columns.
struct TensorMapShape {
  int64_t batch, tokens, heads, head_dim;
  int64_t batch_stride, token_stride, head_stride;  // elements, multiples of 8 (where there is more than one)
  int box_tokens;                                   // up to 256
};

// What the driver makes of it. Handed to kernels by value.
struct alignas(128) TensorMap {
  unsigned char bits[128];
};

// `count` elements from `data` on may be touched; data lies at a multiple of 16 bytes. Throws DeviceError.
TensorMap make_tensor_map(const Bf16* data, int64_t count, const TensorMapShape& shape);

}  // namespace skippipe::cuda
