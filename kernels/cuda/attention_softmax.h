// The softmax over tiles of scores in registers, with a running maximum and sum per row (Dao et al. 2022,
// arXiv:2205.14135). A row's maximum is left behind while it may be (Zadouri et al. 2026, FlashAttention-4).
#pragma once

#include <cmath>

#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/reduce.h"

namespace skippipe::SKP_GPU {

// Probabilities are taken relative to a maximum that the true one exceeds by up to this, in powers of two.
inline constexpr float kSlack = 8;

// A warp's running maxima of its rows, as exponents of 2, and sums, [m][half] as registers have them. The sums are this
// lane's part.
template <int kRowTiles>
struct Softmax {
  float top[kRowTiles][2], sum[kRowTiles][2];

  SKP_DEVICE Softmax() {
    for_each_row<kRowTiles>([&](int m, int half) {
      top[m][half] = -kInfinity;
      sum[m][half] = 0;
    });
  }

  // Makes the maxima hold for one more tile of scores. Where that raises one of the warp's, rescales the sums, calls
  // rescale(m, half, by) for each row, which does so to what else is relative to it, and returns true. factor: what
  // makes scores exponents.
  template <int kColumnTiles, typename Rescale>
  SKP_DEVICE bool raise_tops(const float (&scores)[kRowTiles][kColumnTiles][4], float factor, const Rescale& rescale) {
    float highest[kRowTiles][2];
    bool above = false;
    for_each_row<kRowTiles>([&](int m, int half) {
      float high = scores[m][0][2 * half];
      SKP_UNROLL
      for (int i = 1; i < 2 * kColumnTiles; ++i) high = std::fmax(high, scores[m][i / 2][2 * half + i % 2]);
      high = std::fmax(high, shuffle_xor(high, 1));
      highest[m][half] = std::fmax(high, shuffle_xor(high, 2)) * factor;
      above = above || highest[m][half] > top[m][half] + kSlack;
    });
    if (ballot(above) == 0) return false;
    for_each_row<kRowTiles>([&](int m, int half) {
      const float raised = std::fmax(top[m][half], highest[m][half]);
      const float shrink = fast_exp2(top[m][half] - raised);
      top[m][half] = raised;
      sum[m][half] *= shrink;
      rescale(m, half, shrink);
    });
    return true;
  }

  // Takes column tiles 2 * step and 2 * step + 1 from scores to probabilities, and the sums with them.
  template <int kColumnTiles>
  SKP_DEVICE void exponentiate(float (&scores)[kRowTiles][kColumnTiles][4], int step, float factor) {
    for_each_row<kRowTiles>([&](int m, int half) {
      SKP_UNROLL
      for (int i = 4 * step; i < 4 * step + 4; ++i) {
        float& x = scores[m][i / 2][2 * half + i % 2];
        x = fast_exp2(x * factor - top[m][half]);
        sum[m][half] += x;
      }
    });
  }

  SKP_DEVICE float total(int m, int half) const { return warp_sum<4>(sum[m][half]); }
};

// Multiplies a row.
template <int kRowTiles, int kColumnTiles>
SKP_DEVICE void scale_row(float (&x)[kRowTiles][kColumnTiles][4], int m, int half, float by) {
  SKP_UNROLL
  for (int i = 0; i < 2 * kColumnTiles; ++i) x[m][i / 2][2 * half + i % 2] *= by;
}

}  // namespace skippipe::SKP_GPU
