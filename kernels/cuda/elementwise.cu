#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vectors.h"
#include "kernels/elements.h"

namespace skippipe::SKP_GPU {
namespace {

constexpr int kNormBlocks = 512;  // squared_norm sums this many ranges apart, on any device

template <typename T, int kWidth>
SKP_KERNEL(kMapThreads, 4)
zero(Global<T> x, int64_t count) {
  for_each_vector<kWidth, 4>(
      count, [](int64_t, auto width) { return Vec<T, width()>{}; },
      [&](int64_t i, const auto& zeros) { x.store_vec(i, zeros); });
}

template <typename To, typename From, int kWidth>
SKP_KERNEL(kMapThreads, 4)
convert(Global<To> y, Global<const From> x, int64_t count) {
  for_each_vector<kWidth, 4>(
      count, [&](int64_t i, auto width) { return x.template load_vec<width()>(i); },
      [&](int64_t i, const auto& loaded) { y.store_vec(i, narrow<To>(widen(loaded))); });
}

template <typename T, int kWidth>
SKP_KERNEL(kMapThreads, 4)
copy(Global<T> y, Global<const T> x, int64_t count) {
  for_each_vector<kWidth, 4>(
      count, [&](int64_t i, auto width) { return x.template load_vec<width()>(i); },
      [&](int64_t i, const auto& loaded) { y.store_vec(i, loaded); });
}

template <typename T, int kWidth>
SKP_KERNEL(kMapThreads, 4)
add_elements(Global<T> y, Global<const T> a, Global<const T> b, int64_t count) {
  for_each_vector<kWidth, 2>(
      count,
      [&](int64_t i, auto width) {
        return Pair{a.template load_vec<width()>(i), b.template load_vec<width()>(i)};
      },
      [&](int64_t i, const auto& terms) {
        auto sum = widen(terms.a);
        const auto other = widen(terms.b);
        SKP_UNROLL
        for (int j = 0; j < sum.kLength; ++j) sum.values[j] += other.values[j];
        y.store_vec(i, narrow<T>(sum));
      });
}

template <typename T, int kWidth>
SKP_KERNEL(kMapThreads, 4)
add_scaled(Global<float> y, Global<const T> x, float scale, int64_t count) {
  for_each_vector<kWidth, 2>(
      count,
      [&](int64_t i, auto width) {
        return Pair{y.template load_vec<width()>(i), x.template load_vec<width()>(i)};
      },
      [&](int64_t i, const auto& terms) {
        auto sum = terms.a;
        const auto term = widen(terms.b);
        SKP_UNROLL
        for (int j = 0; j < sum.kLength; ++j) sum.values[j] += scale * term.values[j];
        y.store_vec(i, sum);
      });
}

// Each block sums one range, its threads in turns, so that the order depends on the size alone.
template <int kWidth>
SKP_KERNEL(kMapThreads, 4)
sum_squares(Global<double> parts, Global<const float> x, int64_t count) {
  SharedMemory memory;
  const Shared<double> scratch = memory.take<double>(kWarp);
  double sum = 0;
  for_each_vector<kWidth, 4>(
      count, [&](int64_t i, auto width) { return x.load_vec<width()>(i); },
      [&](int64_t, const auto& loaded) {
        SKP_UNROLL
        for (int j = 0; j < loaded.kLength; ++j) {
          const auto value = static_cast<double>(loaded.values[j]);
          sum += value * value;
        }
      });
  sum = block_sum(sum, scratch);
  if (thread_index() == 0) parts.store(block_x(), sum);
}

SKP_KERNEL(kMapThreads, 1)
sum_parts(Global<float> sum, Global<const double> parts) {
  SharedMemory memory;
  const Shared<double> scratch = memory.take<double>(kWarp);
  double mine = 0;
  for (int i = thread_index(); i < kNormBlocks; i += block_threads()) mine += parts.load(i);
  const double total = block_sum(mine, scratch);
  if (thread_index() == 0) sum.store(0, static_cast<float>(total));
}

}  // namespace

void GpuBackend::fill_zero(Context& ctx, Tensor x) {
  const int64_t count = x.elements();
  if (count == 0) return;
  with_element(x.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kWidest<T>>(aligned({x.data()}), [&](auto width) {
      launch(Launch(ctx, "fill_zero", grid_for(limits_, count / width()), kMapThreads), zero<T, width()>, global<T>(x),
             count);
    });
  });
}

void GpuBackend::cast(Context& ctx, Tensor y, ConstTensor x) {
  const int64_t count = x.elements();
  if (count == 0) return;
  const auto run = [&](auto to, auto from) {
    using To = decltype(to);
    using From = decltype(from);
    constexpr int kWidth = std::min(kWidest<To>, kWidest<From>);
    with_width<kWidth>(aligned({x.data(), y.data()}), [&](auto width) {
      const Launch at(ctx, "cast", grid_for(limits_, count / width()), kMapThreads);
      if constexpr (std::is_same_v<To, From>)
        launch(at, copy<To, width()>, global<To>(y), global<To>(x), count);
      else
        launch(at, convert<To, From, width()>, global<To>(y), global<From>(x), count);
    });
  };
  with_element(y.dtype(), [&](auto to) { with_element(x.dtype(), [&](auto from) { run(to, from); }); });
}

void GpuBackend::add(Context& ctx, Tensor y, ConstTensor a, ConstTensor b) {
  const int64_t count = y.elements();
  if (count == 0) return;
  with_element(y.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kWidest<T>>(aligned({y.data(), a.data(), b.data()}), [&](auto width) {
      launch(Launch(ctx, "add", grid_for(limits_, count / width()), kMapThreads), add_elements<T, width()>,
             global<T>(y), global<T>(a), global<T>(b), count);
    });
  });
}

void GpuBackend::accumulate(Context& ctx, Tensor y, ConstTensor x, float scale) {
  const int64_t count = y.elements();
  if (count == 0) return;
  constexpr int kWidth = 4;
  with_element(x.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kWidth>(aligned({x.data(), y.data()}), [&](auto width) {
      launch(Launch(ctx, "accumulate", grid_for(limits_, count / width()), kMapThreads), add_scaled<T, width()>,
             global<float>(y), global<T>(x), scale, count);
    });
  });
}

int64_t GpuBackend::squared_norm_workspace_bytes(const Context&) const {
  return kNormBlocks * static_cast<int64_t>(sizeof(double));
}

void GpuBackend::squared_norm(Context& ctx, Tensor sum, ConstTensor x) {
  const auto parts = workspace<double>(ctx, 0, kNormBlocks);
  constexpr int64_t kShared = shared_bytes<double>(kWarp);
  with_width<kWidest<float>>(aligned({x.data()}), [&](auto width) {
    launch(Launch(ctx, "squared_norm", {kNormBlocks}, kMapThreads, kShared), sum_squares<width()>, parts,
           global<float>(x), x.elements());
  });
  launch(Launch(ctx, "squared_norm", {1}, kMapThreads, kShared), sum_parts, global<float>(sum), parts);
}

}  // namespace skippipe::SKP_GPU
