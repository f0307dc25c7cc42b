#include <algorithm>

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

// kRowLanes lanes to a row; rows in the order in which dy and y usually lie.
template <typename T, int kWidth>
SKP_KERNEL(kThreads, 4)
row_products(Global<float> delta, Rows<T> dy, Rows<T> y, int64_t rows, int64_t tokens, int64_t heads, int head_dim) {
  const int64_t row = (block_x() * kThreads + thread_index()) / kRowLanes;
  const int64_t b = row / (tokens * heads), t = row / heads % tokens, h = row % heads;
  float sum = 0;
  if (row < rows) {
    const auto left = dy.at(b, t, h), right = y.at(b, t, h);
    for (int d = lane_index() % kRowLanes * kWidth; d < head_dim; d += kRowLanes * kWidth) {
      const auto l = widen(left.template load_vec<kWidth>(d)), r = widen(right.template load_vec<kWidth>(d));
      SKP_UNROLL
      for (int i = 0; i < kWidth; ++i) sum += l.values[i] * r.values[i];
    }
  }
  sum = warp_sum<kRowLanes>(sum);
  if (row < rows && lane_index() % kRowLanes == 0) delta.store((b * heads + h) * tokens + t, sum);
}

}  // namespace

void attention_delta(Context& ctx, Global<float> delta, ConstTensor dy, ConstTensor y) {
  const int64_t tokens = y.dim(1), heads = y.dim(2), rows = y.dim(0) * tokens * heads;
  const Launch at(ctx, "attention_delta", {(rows + kThreads / kRowLanes - 1) / (kThreads / kRowLanes)}, kThreads);
  with_element(y.dtype(), [&](auto element) {
    using T = decltype(element);
    const auto run = [&](auto width) {
      launch(at, row_products<T, width()>, delta, rows_of<T>(dy), rows_of<T>(y), rows, tokens, heads,
             static_cast<int>(y.dim(3)));
    };
    if (takes_vectors(dy) && takes_vectors(y))
      run(std::integral_constant<int, kWidest<T>>());
    else
      run(std::integral_constant<int, 1>());
  });
}

}  // namespace skippipe::SKP_GPU
