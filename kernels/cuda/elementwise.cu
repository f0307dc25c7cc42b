#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/reduce.h"
#include "kernels/elements.h"

namespace skippipe::SKP_GPU {
namespace {

constexpr int kThreads = 256;
constexpr int kNormBlocks = 512;  // squared_norm sums this many ranges apart, on any device

// map(i, width) for the vectors of kWidth elements, then for the elements that are left over.
template <int kWidth, typename Map>
SKP_DEVICE void for_each_vector(int64_t count, const Map& map) {
  const int64_t first = block_x() * block_threads() + thread_index(), stride = grid_x() * block_threads();
  for (int64_t i = first; i < count / kWidth; i += stride) map(i * kWidth, std::integral_constant<int, kWidth>());
  for (int64_t i = count / kWidth * kWidth + first; i < count; i += stride) map(i, std::integral_constant<int, 1>());
}

// Grids that fill the device a few times over; threads go on from there.
Grid grid_for(const cuda::DeviceLimits& limits, int64_t vectors) {
  const int64_t needed = (vectors + kThreads - 1) / kThreads;
  return {std::max<int64_t>(1, std::min<int64_t>(needed, int64_t{limits.multiprocessors} * 32))};
}

template <typename T, int kWidth>
SKP_KERNEL(kThreads, 2)
zero(Global<T> x, int64_t count) {
  for_each_vector<kWidth>(count, [&](int64_t i, auto width) { x.store_vec(i, Vec<T, width()>{}); });
}

template <typename To, typename From, int kWidth>
SKP_KERNEL(kThreads, 2)
convert(Global<To> y, Global<const From> x, int64_t count) {
  for_each_vector<kWidth>(
      count, [&](int64_t i, auto width) { y.store_vec(i, narrow<To>(widen(x.template load_vec<width()>(i)))); });
}

template <typename T, int kWidth>
SKP_KERNEL(kThreads, 2)
copy(Global<T> y, Global<const T> x, int64_t count) {
  for_each_vector<kWidth>(count, [&](int64_t i, auto width) { y.store_vec(i, x.template load_vec<width()>(i)); });
}

template <typename T, int kWidth>
SKP_KERNEL(kThreads, 2)
add_elements(Global<T> y, Global<const T> a, Global<const T> b, int64_t count) {
  for_each_vector<kWidth>(count, [&](int64_t i, auto width) {
    auto sum = widen(a.template load_vec<width()>(i));
    const auto other = widen(b.template load_vec<width()>(i));
    SKP_UNROLL
    for (int j = 0; j < width(); ++j) sum.values[j] += other.values[j];
    y.store_vec(i, narrow<T>(sum));
  });
}

template <typename T, int kWidth>
SKP_KERNEL(kThreads, 2)
add_scaled(Global<float> y, Global<const T> x, float scale, int64_t count) {
  for_each_vector<kWidth>(count, [&](int64_t i, auto width) {
    auto sum = y.template load_vec<width()>(i);
    const auto term = widen(x.template load_vec<width()>(i));
    SKP_UNROLL
    for (int j = 0; j < width(); ++j) sum.values[j] += scale * term.values[j];
    y.store_vec(i, sum);
  });
}

// Each block sums one range, its threads in turns, so that the order depends on the size alone.
template <int kWidth>
SKP_KERNEL(kThreads, 2)
sum_squares(Global<double> parts, Global<const float> x, int64_t count) {
  SharedMemory memory;
  const Shared<double> scratch = memory.take<double>(kWarp);
  double sum = 0;
  for_each_vector<kWidth>(count, [&](int64_t i, auto width) {
    const auto values = x.load_vec<width()>(i);
    SKP_UNROLL
    for (int j = 0; j < width(); ++j)
      sum += static_cast<double>(values.values[j]) * static_cast<double>(values.values[j]);
  });
  sum = block_sum(sum, scratch);
  if (thread_index() == 0) parts.store(block_x(), sum);
}

SKP_KERNEL(kThreads, 1)
sum_parts(Global<float> sum, Global<const double> parts) {
  SharedMemory memory;
  const Shared<double> scratch = memory.take<double>(kWarp);
  double mine = 0;
  for (int i = thread_index(); i < kNormBlocks; i += block_threads()) mine += parts.load(i);
  const double total = block_sum(mine, scratch);
  if (thread_index() == 0) sum.store(0, static_cast<float>(total));
}

// body(width) with vectors of `most` elements if every tensor begins where they may, else one by one.
template <int kMost, typename Body>
void with_width(std::initializer_list<const void*> data, const Body& body) {
  uintptr_t bits = 0;
  for (const void* pointer : data) bits |= reinterpret_cast<uintptr_t>(pointer);
  if (bits % 16 == 0)
    body(std::integral_constant<int, kMost>());
  else
    body(std::integral_constant<int, 1>());
}

}  // namespace

void GpuBackend::fill_zero(Context& ctx, Tensor x) {
  const int64_t count = x.elements();
  if (count == 0) return;
  with_element(x.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kWidest<T>>({x.data()}, [&](auto width) {
      launch(Launch(ctx, "fill_zero", grid_for(limits_, count / width()), kThreads), zero<T, width()>, global<T>(x),
             count);
    });
  });
}

void GpuBackend::cast(Context& ctx, Tensor y, ConstTensor x) {
  const int64_t count = x.elements();
  if (count == 0) return;
  constexpr int kWidth = 4;  // 16 bytes of f32, 8 of bf16
  const auto run = [&](auto to, auto from) {
    using To = decltype(to);
    using From = decltype(from);
    with_width<kWidth>({x.data(), y.data()}, [&](auto width) {
      const Launch at(ctx, "cast", grid_for(limits_, count / width()), kThreads);
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
    with_width<kWidest<T>>({y.data(), a.data(), b.data()}, [&](auto width) {
      launch(Launch(ctx, "add", grid_for(limits_, count / width()), kThreads), add_elements<T, width()>, global<T>(y),
             global<T>(a), global<T>(b), count);
    });
  });
}

void GpuBackend::accumulate(Context& ctx, Tensor y, ConstTensor x, float scale) {
  const int64_t count = y.elements();
  if (count == 0) return;
  constexpr int kWidth = 4;
  with_element(x.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kWidth>({x.data(), y.data()}, [&](auto width) {
      launch(Launch(ctx, "accumulate", grid_for(limits_, count / width()), kThreads), add_scaled<T, width()>,
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
  with_width<kWidest<float>>({x.data()}, [&](auto width) {
    launch(Launch(ctx, "squared_norm", {kNormBlocks}, kThreads, kShared), sum_squares<width()>, parts, global<float>(x),
           x.elements());
  });
  launch(Launch(ctx, "squared_norm", {1}, kThreads, kShared), sum_parts, global<float>(sum), parts);
}

}  // namespace skippipe::SKP_GPU
