#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/vectors.h"
#include "kernels/elements.h"

namespace skippipe::SKP_GPU {
namespace {

// A matrix whose rows lie `stride` elements apart.
template <typename T>
struct Rows {
  Global<T> data;
  int64_t stride;

  SKP_DEVICE int64_t at(int64_t row, int64_t column) const { return row * stride + column; }
};

template <typename T>
Rows<T> rows_of(const Tensor& x) {
  return {global<T>(x), x.stride(0)};
}
template <typename T>
Rows<const T> rows_of(const ConstTensor& x) {
  return {global<T>(x), x.stride(0)};
}

SKP_DEVICE float sigmoid(float x) { return fast_reciprocal(1.0f + fast_exp(-x)); }

template <typename T, int kWidth>
SKP_KERNEL(kMapThreads, 4)
forward(Rows<T> y, Rows<const T> gate, Rows<const T> up, int64_t rows, int64_t columns) {
  for_each_row_vector<kWidth, 2>(
      rows, columns,
      [&](int64_t n, int64_t f) {
        return Pair{gate.data.template load_vec<kWidth>(gate.at(n, f)), up.data.template load_vec<kWidth>(up.at(n, f))};
      },
      [&](int64_t n, int64_t f, const auto& loaded) {
        auto result = widen(loaded.a);
        const auto u = widen(loaded.b);
        SKP_UNROLL
        for (int j = 0; j < kWidth; ++j) result.values[j] *= sigmoid(result.values[j]) * u.values[j];
        y.data.store_vec(y.at(n, f), narrow<T>(result));
      });
}

template <typename T, int kWidth>
SKP_KERNEL(kMapThreads, 3)
backward(Rows<T> dgate, Rows<T> dup, Rows<const T> dy, Rows<const T> gate, Rows<const T> up, int64_t rows,
         int64_t columns) {
  for_each_row_vector<kWidth, 2>(
      rows, columns,
      [&](int64_t n, int64_t f) {
        return Pair{
            dy.data.template load_vec<kWidth>(dy.at(n, f)),
            Pair{gate.data.template load_vec<kWidth>(gate.at(n, f)), up.data.template load_vec<kWidth>(up.at(n, f))}};
      },
      [&](int64_t n, int64_t f, const auto& loaded) {
        const auto d = widen(loaded.a), x = widen(loaded.b.a), u = widen(loaded.b.b);
        Vec<float, kWidth> dx, du;
        SKP_UNROLL
        for (int j = 0; j < kWidth; ++j) {
          const float s = sigmoid(x.values[j]);
          const float silu = x.values[j] * s;
          dx.values[j] = d.values[j] * u.values[j] * (s + silu * (1.0f - s));
          du.values[j] = d.values[j] * silu;
        }
        // dgate may be gate, and dup may be up: what is written here was read by this thread before.
        dgate.data.store_vec(dgate.at(n, f), narrow<T>(dx));
        dup.data.store_vec(dup.at(n, f), narrow<T>(du));
      });
}

}  // namespace

void GpuBackend::swiglu_forward(Context& ctx, Tensor y, ConstTensor gate, ConstTensor up) {
  const int64_t rows = gate.dim(0), columns = gate.dim(1);
  with_element(gate.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kWidest<T>>(takes_vectors(y, gate, up), [&](auto width) {
      launch(Launch(ctx, "swiglu_forward", grid_for(limits_, rows * columns / width()), kMapThreads),
             forward<T, width()>, rows_of<T>(y), rows_of<T>(gate), rows_of<T>(up), rows, columns);
    });
  });
}

void GpuBackend::swiglu_backward(Context& ctx, Tensor dgate, Tensor dup, ConstTensor dy, ConstTensor gate,
                                 ConstTensor up) {
  const int64_t rows = gate.dim(0), columns = gate.dim(1);
  with_element(gate.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kWidest<T>>(takes_vectors(dgate, dup, dy, gate, up), [&](auto width) {
      launch(Launch(ctx, "swiglu_backward", grid_for(limits_, rows * columns / width()), kMapThreads),
             backward<T, width()>, rows_of<T>(dgate), rows_of<T>(dup), rows_of<T>(dy), rows_of<T>(gate), rows_of<T>(up),
             rows, columns);
    });
  });
}

}  // namespace skippipe::SKP_GPU
