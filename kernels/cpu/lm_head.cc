// Rows are taken in blocks and the vocabulary in chunks; one block's logits for one chunk are all that exists at a
// time.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"

namespace skippipe::cpu {
namespace {

constexpr int64_t kMaxRows = 1024;
constexpr int64_t kMaxChunk = 2048;

struct Range {
  int64_t begin, count;
};

// body(rows, chunk) for every block of rows, and within it every chunk of the vocabulary.
template <typename Body>
void for_each_chunk(int64_t rows, int64_t vocabulary, const Body& body) {
  for (int64_t n = 0; n < rows; n += kMaxRows)
    for (int64_t v = 0; v < vocabulary; v += kMaxChunk)
      body(Range{n, std::min(kMaxRows, rows - n)}, Range{v, std::min(kMaxChunk, vocabulary - v)});
}

// Contiguous rows of a (N,C) matrix.
template <typename Void>
auto matrix_rows(const BasicTensor<Void>& x, Range rows) {
  auto* data = x.template as<float>() + rows.begin * x.dim(1);
  return Matrix<std::remove_pointer_t<decltype(data)>>{data, rows.count, x.dim(1), x.dim(1), 1};
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

// logits become their gradient.
void differentiate(float* logits, Range chunk, int32_t target, float lse, float scale) {
  if (target < 0) {
    std::fill_n(logits, chunk.count, 0.0f);
    return;
  }
  for_each_vec(chunk.count,
               [&](int64_t v, auto access) { access.store(logits + v, scale * exp(access.load(logits + v) - lse)); });
  if (target >= chunk.begin && target < chunk.begin + chunk.count) logits[target - chunk.begin] -= scale;
}

}  // namespace

int64_t CpuBackend::lm_head_workspace_bytes(const Context&, int64_t rows, int64_t, int64_t vocabulary) const {
  const int64_t logits = element_count({std::min(rows, kMaxRows), std::min(vocabulary, kMaxChunk), 4});
  return element_count({rows, static_cast<int64_t>(sizeof(RowState))}) + logits;
}

void CpuBackend::lm_head_loss_forward(Context& ctx, Tensor loss, Tensor lse, ConstTensor h, ConstTensor w,
                                      ConstTensor targets) {
  const int64_t rows = h.dim(0);
  const int32_t* target = targets.as<int32_t>();
  const auto logits_floats = std::min(rows, kMaxRows) * std::min(w.dim(0), kMaxChunk);
  float* logits = reinterpret_cast<float*>(ctx.workspace.data());
  RowState* states = reinterpret_cast<RowState*>(logits + logits_floats);
  std::fill_n(states, rows, RowState{-std::numeric_limits<float>::infinity(), 0, 0});
  for_each_chunk(rows, w.dim(0), [&](Range block, Range chunk) {
    matmuls_.multiply(ctx.threads, {logits, block.count, chunk.count, chunk.count, 1}, matrix_rows(h, block),
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
  const int32_t* target = targets.as<int32_t>();
  float* logits = reinterpret_cast<float*>(ctx.workspace.data());
  for_each_chunk(h.dim(0), w.dim(0), [&](Range block, Range chunk) {
    const Matrix<float> made{logits, block.count, chunk.count, chunk.count, 1};
    const Matrix<const float> dlogits{logits, block.count, chunk.count, chunk.count, 1};
    matmuls_.multiply(ctx.threads, made, matrix_rows(h, block), matrix_rows(w, chunk).transposed(), false);
    parallel_ranges(ctx.threads, block.count, row_grain(chunk.count), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        differentiate(logits + n * chunk.count, chunk, target[block.begin + n], lse.as<float>()[block.begin + n],
                      scale);
    });
    matmuls_.multiply(ctx.threads, matrix_rows(dh, block), dlogits, matrix_rows(w, chunk), chunk.begin > 0);
    matmuls_.multiply(ctx.threads, matrix_rows(dw, chunk), dlogits.transposed(), matrix_rows(h, block), true);
  });
}

}  // namespace skippipe::cpu
