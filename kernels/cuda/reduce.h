// Sums and maxima over the lanes of a warp and the threads of a block, in a fixed order.
#pragma once

#include "kernels/cuda/hardware.h"

namespace skippipe::SKP_GPU {

// Every lane gets the result over the kLanes (a power of two) neighbours that begin at a multiple of kLanes.
template <int kLanes = kWarp, typename T>
SKP_DEVICE T warp_sum(T value) {
  SKP_UNROLL
  for (int distance = kLanes / 2; distance > 0; distance /= 2) value += shuffle_xor(value, distance);
  return value;
}
template <int kLanes = kWarp, typename T>
SKP_DEVICE T warp_max(T value) {
  SKP_UNROLL
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const T other = shuffle_xor(value, distance);
    value = value > other ? value : other;
  }
  return value;
}
// Every lane gets the sum of what lanes up to and with its own bring.
template <typename T>
SKP_DEVICE T warp_prefix_sum(T value) {
  SKP_UNROLL
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const T lower = shuffle_up(value, distance);
    if (lane_index() >= distance) value += lower;
  }
  return value;
}

// Every thread of the block gets the sum. `scratch`: 32 elements, which may be used again after the next block_sync.
template <typename T>
SKP_DEVICE T block_sum(T value, Shared<T> scratch) {
  value = warp_sum(value);
  if (lane_index() == 0) scratch.store(warp_index(), value);
  block_sync();
  return warp_sum(lane_index() < block_threads() / kWarp ? scratch.load(lane_index()) : T{});
}

}  // namespace skippipe::SKP_GPU
