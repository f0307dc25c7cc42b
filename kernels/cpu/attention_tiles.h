// What the attention operations share: their scratch memory and the softmax over tiles of scores.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>

#include "kernels/cpu/simd.h"

namespace skippipe::cpu {

constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Hands out pieces of one thread's workspace.
class Carver {
 public:
  explicit Carver(float* at) : at_(at) {}
  float* take(int64_t floats) { return std::exchange(at_, at_ + floats); }

 private:
  float* at_;
};

// Which of the keys j .. j + kLanes - 1 come before key `end`.
inline IntVec keys_before(int64_t end, int64_t j) {
  return lane_numbers() + static_cast<int32_t>(j) < static_cast<int32_t>(end) - IntVec{};
}

// One query's running maximum, sum and output through one tile of `keys` scores, of which it sees the first `visible`,
// at least one: s becomes exp(s - max), 0 where it may not look; out (width) and sum are rescaled. keys and width are
// multiples of kLanes.
inline void softmax_row(float* s, float* out, float& row_max, float& row_sum, int64_t visible, int64_t keys,
                        int64_t width) {
  Vec top = splat(row_max);
  for (int64_t j = 0; j < keys; j += kLanes) {
    Vec value = load(s + j);
    if (j + kLanes > visible) {
      value = keys_before(visible, j) ? value : splat(-std::numeric_limits<float>::infinity());
      store(s + j, value);
    }
    top = max(value, top);
  }
  const float new_max = max_lanes(top);
  Vec sum{};
  for (int64_t j = 0; j < keys; j += kLanes) {
    const Vec p = exp(load(s + j) - new_max);
    store(s + j, p);
    sum += p;
  }
  const float shrink = exp_one(row_max - new_max);
  row_sum = row_sum * shrink + sum_lanes(sum);
  if (shrink != 1.0f)
    for (int64_t d = 0; d < width; d += kLanes) store(out + d, load(out + d) * shrink);
  row_max = new_max;
}

}  // namespace skippipe::cpu
