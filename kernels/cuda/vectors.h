// Maps over many elements, 16 bytes per access where tensors allow it: how a grid shares them out, and how a launch is
// shaped for it.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "kernels/cuda/device_limits.h"
#include "kernels/cuda/memory.h"

namespace skippipe::SKP_GPU {

inline constexpr int kMapThreads = 256;

// For `load` to return what lies in two tensors.
template <typename A, typename B>
struct Pair {
  A a;
  B b;
};
template <typename A, typename B>
Pair(A, B) -> Pair<A, B>;

// use(i, load(i)) for each i below `count`, shared out over the grid. A thread issues the loads of kAtOnce items before
// it uses the first: memory is fast only while many loads are under way.
template <int kAtOnce, typename Load, typename Use>
SKP_DEVICE void for_each_item(int64_t count, const Load& load, const Use& use) {
  const int64_t step = grid_x() * block_threads();
  int64_t i = block_x() * block_threads() + thread_index();
  if constexpr (kAtOnce > 1)
    for (; i + (kAtOnce - 1) * step < count; i += kAtOnce * step) {
      decltype(load(i)) loaded[kAtOnce];
      SKP_UNROLL
      for (int j = 0; j < kAtOnce; ++j) loaded[j] = load(i + j * step);
      SKP_UNROLL
      for (int j = 0; j < kAtOnce; ++j) use(i + j * step, loaded[j]);
    }
  for (; i < count; i += step) use(i, load(i));
}

// The same for the vectors of kWidth elements, then for the elements that are left over: load(i, width) is given their
// number, too.
template <int kWidth, int kAtOnce, typename Load, typename Use>
SKP_DEVICE void for_each_vector(int64_t count, const Load& load, const Use& use) {
  for_each_item<kAtOnce>(
      count / kWidth, [&](int64_t i) { return load(i * kWidth, std::integral_constant<int, kWidth>()); },
      [&](int64_t i, const auto& loaded) { use(i * kWidth, loaded); });
  if constexpr (kWidth > 1) {
    const int64_t rest = count / kWidth * kWidth;
    for_each_item<1>(
        count - rest, [&](int64_t i) { return load(rest + i, std::integral_constant<int, 1>()); },
        [&](int64_t i, const auto& loaded) { use(rest + i, loaded); });
  }
}

// use(row, column, load(row, column)) for the vectors of kWidth elements of a matrix, whose columns they divide.
template <int kWidth, int kAtOnce, typename Load, typename Use>
SKP_DEVICE void for_each_row_vector(int64_t rows, int64_t columns, const Load& load, const Use& use) {
  const int64_t per_row = columns / kWidth;
  for_each_item<kAtOnce>(
      rows * per_row, [&](int64_t i) { return load(i / per_row, i % per_row * kWidth); },
      [&](int64_t i, const auto& loaded) { use(i / per_row, i % per_row * kWidth, loaded); });
}

// A grid of kMapThreads that fills the device a few times over; threads go on from there.
inline Grid grid_for(const cuda::DeviceLimits& limits, int64_t items) {
  const int64_t needed = (items + kMapThreads - 1) / kMapThreads;
  return {std::max<int64_t>(1, std::min<int64_t>(needed, int64_t{limits.multiprocessors} * 16))};
}

// Whether all of these begin where a vector of 16 bytes may.
inline bool aligned(std::initializer_list<const void*> data) {
  uintptr_t bits = 0;
  for (const void* pointer : data) bits |= reinterpret_cast<uintptr_t>(pointer);
  return bits % 16 == 0;
}

// body(width) with kMost if `vectors`, else with 1.
template <int kMost, typename Body>
void with_width(bool vectors, const Body& body) {
  if (vectors)
    body(std::integral_constant<int, kMost>());
  else
    body(std::integral_constant<int, 1>());
}

// N elements at i, which may be more than one access takes.
template <int N, typename T>
SKP_DEVICE Vec<T, N> load_elements(Global<const T> x, int64_t i) {
  constexpr int kEach = std::min(N, kWidest<T>);
  Vec<T, N> result;
  SKP_UNROLL
  for (int j = 0; j < N; j += kEach) {
    const auto part = x.template load_vec<kEach>(i + j);
    SKP_UNROLL
    for (int k = 0; k < kEach; ++k) result.values[j + k] = part.values[k];
  }
  return result;
}
// Memory is Global or Shared.
template <typename Memory, typename Index, typename T, int N>
SKP_DEVICE void store_elements(const Memory& to, Index i, const Vec<T, N>& x) {
  constexpr int kEach = std::min(N, kWidest<T>);
  SKP_UNROLL
  for (int j = 0; j < N; j += kEach) {
    Vec<T, kEach> part;
    SKP_UNROLL
    for (int k = 0; k < kEach; ++k) part.values[k] = x.values[j + k];
    to.store_vec(i + j, part);
  }
}

}  // namespace skippipe::SKP_GPU
