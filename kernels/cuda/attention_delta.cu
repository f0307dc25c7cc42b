#include <algorithm>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/reduce.h"
#include "kernels/elements.h"

namespace skippipe::SKP_GPU {
namespace {

constexpr int kThreads = 256;
constexpr int kRowLanes = 16;

// The rows (b,t,h) of one of dy and y.
template <typename T>
struct Rows {
  Global<const T> data;
  int64_t batch_stride, token_stride, head_stride;

  SKP_DEVICE Global<const T> at(int64_t b, int64_t t, int64_t h) const {
    return data + (b * batch_stride + t * token_stride + h * head_stride);
  }
};

template <typename T>
Rows<T> rows_of(const ConstTensor& x) {
  return {global<T>(x), x.stride(0), x.stride(1), x.stride(2)};
}

// kRowLanes lanes to a row (t,h); rows in the order in which dy and y usually lie. Grid: rows, batch.
template <typename T, int kWidth>
SKP_KERNEL(kThreads, 4)
row_products(Global<float> delta, Rows<T> dy, Rows<T> y, int rows, int tokens, Divisor heads, int head_dim) {
  const int row = static_cast<int>(block_x()) * (kThreads / kRowLanes) + thread_index() / kRowLanes;
  const int b = block_y(), t = heads.quotient(row), h = row - t * heads.value();
  float sum = 0;
  if (row < rows) {
    const auto left = dy.at(b, t, h), right = y.at(b, t, h);
    SKP_UNROLL_BY(2)
    for (int d = lane_index() % kRowLanes * kWidth; d < head_dim; d += kRowLanes * kWidth) {
      const auto l = widen(left.template load_vec<kWidth>(d)), r = widen(right.template load_vec<kWidth>(d));
      SKP_UNROLL
      for (int i = 0; i < kWidth; ++i) sum += l.values[i] * r.values[i];
    }
  }
  sum = warp_sum<kRowLanes>(sum);
  if (row < rows && lane_index() % kRowLanes == 0)
    delta.store((static_cast<int64_t>(b) * heads.value() + h) * tokens + t, sum);
}

}  // namespace

void attention_delta(Context& ctx, Global<float> delta, ConstTensor dy, ConstTensor y) {
  const int batch = static_cast<int>(y.dim(0)), tokens = static_cast<int>(y.dim(1)), heads = static_cast<int>(y.dim(2));
  const int rows = tokens * heads;
  const Launch at(ctx, "attention_delta", {divide_up(rows, kThreads / kRowLanes), batch}, kThreads);
  with_element(y.dtype(), [&](auto element) {
    using T = decltype(element);
    const auto run = [&](auto width) {
      launch(at, row_products<T, width()>, delta, rows_of<T>(dy), rows_of<T>(y), rows, tokens, Divisor(heads),
             static_cast<int>(y.dim(3)));
    };
    if (takes_vectors(dy) && takes_vectors(y))
      run(std::integral_constant<int, kWidest<T>>());
    else
      run(std::integral_constant<int, 1>());
  });
}

}  // namespace skippipe::SKP_GPU
