// Tensors as kernels see them.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cuda/hardware.h"
#include "kernels/tensor.h"

namespace skippipe::SKP_GPU {

// From the first element to behind the last, gaps between rows included.
template <typename Void>
int64_t span_elements(const BasicTensor<Void>& x) {
  int64_t last = 0;
  for (int i = 0; i < x.rank(); ++i) last += (x.dim(i) - 1) * x.stride(i);
  return x.empty() || x.elements() == 0 ? 0 : last + 1;
}

template <typename T>
Global<T> global(const Tensor& x) {
  return {x.as<T>(), span_elements(x)};
}
template <typename T>
Global<const T> global(const ConstTensor& x) {
  return {x.as<T>(), span_elements(x)};
}
// `count` elements of the context's scratch memory, from byte `offset` on.
template <typename T>
Global<T> workspace(const Context& ctx, int64_t offset, int64_t count) {
  return {reinterpret_cast<T*>(ctx.workspace.data() + offset), count};
}

// Whether every row of x begins where a vector of 16 bytes may, and holds a whole number of them.
template <typename Void>
bool takes_vectors(const BasicTensor<Void>& x) {
  const int64_t size = dtype_bytes(x.dtype());
  bool fits = reinterpret_cast<uintptr_t>(x.data()) % 16 == 0;
  for (int i = 0; i < x.rank(); ++i)
    fits = fits && (i == x.rank() - 1 ? x.dim(i) : x.dim(i) > 1 ? x.stride(i) : 0) * size % 16 == 0;
  return fits;
}
template <typename First, typename Second, typename... More>
bool takes_vectors(const First& first, const Second& second, const More&... more) {
  return takes_vectors(first) && takes_vectors(second, more...);
}

// Widens to f32, and rounds to nearest even.
template <typename T, int N>
SKP_DEVICE Vec<float, N> widen(const Vec<T, N>& x) {
  Vec<float, N> result;
  SKP_UNROLL
  for (int i = 0; i < N; ++i) result.values[i] = to_float(x.values[i]);
  return result;
}
template <typename T, int N>
SKP_DEVICE Vec<T, N> narrow(const Vec<float, N>& x) {
  Vec<T, N> result;
  if constexpr (std::is_same_v<T, float>) {
    result = x;
  } else if constexpr (N == 1) {
    result.values[0] = from_float<T>(x.values[0]);
  } else {
    // Whole words, or the compiler would write the elements one by one.
    Vec<uint32_t, N / 2> pairs;
    SKP_UNROLL
    for (int i = 0; i < N / 2; ++i) pairs.values[i] = pack_bf16(x.values[2 * i], x.values[2 * i + 1]);
    result = std::bit_cast<Vec<T, N>>(pairs);
  }
  return result;
}

}  // namespace skippipe::SKP_GPU
