#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/vectors.h"
#include "kernels/elements.h"

namespace skippipe::SKP_GPU {
namespace {

// A thread rotates the same channels of so many heads of one token, all of which take the same angles.
constexpr int kHeadsAtOnce = 4;

template <typename T>
struct Heads {
  Global<T> data;
  int64_t batch, tokens, heads, half;  // half of the head dim
  int64_t sample_stride, token_stride, head_stride;
};

// Pairs (low, high) lie `half` apart. direction is 1, or -1 for the transpose.
template <int kWidth>
SKP_DEVICE void rotate_pairs(Vec<float, kWidth>& low, Vec<float, kWidth>& high, const Vec<float, kWidth>& cos,
                             const Vec<float, kWidth>& sin, float direction) {
  SKP_UNROLL
  for (int j = 0; j < kWidth; ++j) {
    const float first = low.values[j], second = high.values[j], s = direction * sin.values[j];
    low.values[j] = first * cos.values[j] - second * s;
    high.values[j] = second * cos.values[j] + first * s;
  }
}

template <typename T, int kWidth>
SKP_KERNEL(kMapThreads, 2)
rotate(Heads<T> x, Global<const float> cos, Global<const float> sin, float direction) {
  struct Loaded {
    Vec<T, kWidth> low[kHeadsAtOnce], high[kHeadsAtOnce];
    Vec<float, kWidth> cos, sin;
  };
  // Item i is some channels of a group of heads of a token; neighbouring threads take neighbouring channels.
  const int64_t per_half = x.half / kWidth, groups = (x.heads + kHeadsAtOnce - 1) / kHeadsAtOnce;
  const auto channel = [&](int64_t i) { return i % per_half * kWidth; };
  const auto group = [&](int64_t i) { return i / per_half % groups; };
  const auto row = [&](int64_t i) { return i / per_half / groups; };
  const auto at = [&](int64_t i) {
    const int64_t n = row(i);
    return n / x.tokens * x.sample_stride + n % x.tokens * x.token_stride + group(i) * kHeadsAtOnce * x.head_stride +
           channel(i);
  };
  for_each_item<1>(
      x.batch * x.tokens * groups * per_half,
      [&](int64_t i) {
        Loaded loaded{};
        const Global<T> first = x.data + at(i);
        SKP_UNROLL
        for (int h = 0; h < kHeadsAtOnce; ++h)
          if (group(i) * kHeadsAtOnce + h < x.heads) {
            loaded.low[h] = first.template load_vec<kWidth>(h * x.head_stride);
            loaded.high[h] = first.template load_vec<kWidth>(h * x.head_stride + x.half);
          }
        const int64_t angle = row(i) % x.tokens * x.half + channel(i);
        loaded.cos = load_elements<kWidth>(cos, angle);
        loaded.sin = load_elements<kWidth>(sin, angle);
        return loaded;
      },
      [&](int64_t i, const Loaded& loaded) {
        const Global<T> first = x.data + at(i);
        SKP_UNROLL
        for (int h = 0; h < kHeadsAtOnce; ++h)
          if (group(i) * kHeadsAtOnce + h < x.heads) {
            auto low = widen(loaded.low[h]), high = widen(loaded.high[h]);
            rotate_pairs(low, high, loaded.cos, loaded.sin, direction);
            first.store_vec(h * x.head_stride, narrow<T>(low));
            first.store_vec(h * x.head_stride + x.half, narrow<T>(high));
          }
      });
}

void rotate_all(Context& ctx, const cuda::DeviceLimits& limits, const char* name, const Tensor& x,
                const ConstTensor& cos, const ConstTensor& sin, float direction) {
  const int64_t half = x.dim(3) / 2;
  with_element(x.dtype(), [&](auto element) {
    using T = decltype(element);
    const Heads<T> heads{global<T>(x), x.dim(0), x.dim(1), x.dim(2), half, x.stride(0), x.stride(1), x.stride(2)};
    const bool vectors = takes_vectors(x, cos, sin) && half % kWidest<T> == 0;
    with_width<kWidest<T>>(vectors, [&](auto width) {
      const int64_t items = x.elements() / (2 * width() * kHeadsAtOnce);
      launch(Launch(ctx, name, grid_for(limits, items), kMapThreads), rotate<T, width()>, heads, global<float>(cos),
             global<float>(sin), direction);
    });
  });
}

}  // namespace

void GpuBackend::rope_forward(Context& ctx, Tensor x, ConstTensor cos, ConstTensor sin) {
  rotate_all(ctx, limits_, "rope_forward", x, cos, sin, 1.0f);
}

void GpuBackend::rope_backward(Context& ctx, Tensor dx, ConstTensor cos, ConstTensor sin) {
  rotate_all(ctx, limits_, "rope_backward", dx, cos, sin, -1.0f);
}

}  // namespace skippipe::SKP_GPU
