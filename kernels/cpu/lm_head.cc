// Rows are taken in blocks and the vocabulary in chunks; one block's logits for one chunk are all that exists at a
// time.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"
#include "kernels/elements.h"
#include "kernels/lm_head_chunks.h"

namespace skippipe::cpu {
namespace {

constexpr ChunkShape kMost{1024, 2048};

Matrix logits_matrix(float* logits, Range block, Range chunk) {
  return {logits, Dtype::kF32, block.count, chunk.count, chunk.count, 1};
}

// Per row, through the chunks: the greatest logit so far, the sum of exp(logit - max), and the target's logit.
struct RowState {
  float max, sum, target;
};

void take_chunk(RowState& state, const float* logits, Range chunk, int32_t target) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  Vec tops = splat(state.max);
  for_each_vec(chunk.count, [&](int64_t v, auto access) { tops = max(access.load(logits + v, kNone), tops); });
  const float top = max_lanes(tops);
  Vec sums{};
  for_each_vec(chunk.count, [&](int64_t v, auto access) { sums += exp(access.load(logits + v, kNone) - top); });
  state.sum = state.sum * exp_one(state.max - top) + sum_lanes(sums);
  state.max = top;
  if (target >= chunk.begin && target < chunk.begin + chunk.count) state.target = logits[target - chunk.begin];
}

// The gradient of one row's logits. It may lie where they do: no element of it begins behind its logit.
template <typename Element>
void differentiate(Element* gradient, const float* logits, Range chunk, int32_t target, float lse, float scale) {
  if (target < 0) {
    std::fill_n(gradient, chunk.count, Element(0.0f));
    return;
  }
  const int64_t own = target - chunk.begin;
  const bool has_own = own >= 0 && own < chunk.count;
  const float own_gradient = has_own ? scale * exp_one(logits[own] - lse) - scale : 0;
  for_each_vec(chunk.count,
               [=](int64_t v, auto access) { access.store(gradient + v, scale * exp(access.load(logits + v) - lse)); });
  if (has_own) gradient[own] = Element(own_gradient);
}

int64_t logits_floats(int64_t rows, int64_t vocabulary) {
  return element_count({std::min(rows, kMost.rows), std::min(vocabulary, kMost.columns)});
}

}  // namespace

// Logits; behind them the states of all rows in forward, and in backward a block's dh where it is summed in f32 and
// rounded once.
int64_t CpuBackend::lm_head_workspace_bytes(const Context&, int64_t rows, int64_t channels, int64_t vocabulary,
                                            Dtype dtype) const {
  constexpr auto kFloatBytes = static_cast<int64_t>(sizeof(float));
  const int64_t states = element_count({rows, static_cast<int64_t>(sizeof(RowState))});
  const int64_t sums = dtype == Dtype::kF32 ? 0 : element_count({std::min(rows, kMost.rows), channels, kFloatBytes});
  return logits_floats(rows, vocabulary) * kFloatBytes + std::max(states, sums);
}

void CpuBackend::lm_head_loss_forward(Context& ctx, Tensor loss, Tensor lse, ConstTensor h, ConstTensor w,
                                      ConstTensor targets) {
  const int64_t rows = h.dim(0);
  const int32_t* target = targets.as<int32_t>();
  float* logits = reinterpret_cast<float*>(ctx.workspace.data());
  RowState* states = reinterpret_cast<RowState*>(logits + logits_floats(rows, w.dim(0)));
  std::fill_n(states, rows, RowState{-std::numeric_limits<float>::infinity(), 0, 0});
  for_each_chunk(rows, w.dim(0), kMost, [&](Range block, Range chunk) {
    matmuls_.multiply(ctx.threads, logits_matrix(logits, block, chunk), matrix_rows(h, block),
                      matrix_rows(w, chunk).transposed(), false);
    parallel_ranges(ctx.threads, block.count, row_grain(chunk.count), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        take_chunk(states[block.begin + n], logits + n * chunk.count, chunk, target[block.begin + n]);
    });
  });
  double total = 0;
  for (int64_t n = 0; n < rows; ++n) {
    const double row_lse = static_cast<double>(states[n].max) + std::log(static_cast<double>(states[n].sum));
    lse.as<float>()[n] = static_cast<float>(row_lse);
    if (target[n] >= 0) total += row_lse - static_cast<double>(states[n].target);
  }
  *loss.as<float>() = static_cast<float>(total);
}

void CpuBackend::lm_head_loss_backward(Context& ctx, Tensor dh, Tensor dw, ConstTensor h, ConstTensor w,
                                       ConstTensor targets, ConstTensor lse, float scale) {
  const int64_t rows = h.dim(0), channels = h.dim(1), vocabulary = w.dim(0);
  const int32_t* target = targets.as<int32_t>();
  float* logits = reinterpret_cast<float*>(ctx.workspace.data());
  float* sums = logits + logits_floats(rows, vocabulary);
  with_element(h.dtype(), [&](auto element) {
    using Element = decltype(element);
    constexpr bool kSumApart = !std::is_same_v<Element, float>;
    constexpr int64_t kPerFloat = sizeof(float) / sizeof(Element);
    for_each_chunk(rows, vocabulary, kMost, [&](Range block, Range chunk) {
      matmuls_.multiply(ctx.threads, logits_matrix(logits, block, chunk), matrix_rows(h, block),
                        matrix_rows(w, chunk).transposed(), false);
      parallel_ranges(ctx.threads, block.count, row_grain(chunk.count), [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
          float* row = logits + n * chunk.count;
          differentiate(reinterpret_cast<Element*>(row), row, chunk, target[block.begin + n],
                        lse.as<float>()[block.begin + n], scale);
        }
      });
      const ConstMatrix dlogits{logits, h.dtype(), block.count, chunk.count, chunk.count * kPerFloat, 1};
      const Matrix dh_rows =
          kSumApart ? Matrix{sums, Dtype::kF32, block.count, channels, channels, 1} : matrix_rows(dh, block);
      matmuls_.multiply(ctx.threads, dh_rows, dlogits, matrix_rows(w, chunk), chunk.begin > 0);
      matmuls_.multiply(ctx.threads, matrix_rows(dw, chunk), dlogits.transposed(), matrix_rows(h, block), true);
      if (kSumApart && chunk.begin + chunk.count == vocabulary)
        cast(ctx, dh.slice(0, block.begin, block.count), ConstTensor(sums, {block.count, channels}, Dtype::kF32));
    });
  });
}

}  // namespace skippipe::cpu
