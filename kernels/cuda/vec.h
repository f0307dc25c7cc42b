// N elements that are read and written at once.
#pragma once

#include <type_traits>

#include "kernels/bf16.h"

namespace skippipe {

template <typename T, int N>
struct alignas(sizeof(T) * N) Vec {
  static constexpr int kLength = N;
  T values[N];
};
static_assert(std::is_trivially_copyable_v<Vec<Bf16, 8>> && sizeof(Vec<Bf16, 8>) == 16);

// As many elements as one access can hold.
template <typename T>
inline constexpr int kWidest = 16 / static_cast<int>(sizeof(T));

}  // namespace skippipe
