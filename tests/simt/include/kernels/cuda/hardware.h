// The second implementation of kernels/cuda/hardware.h (contracts there): threads are fibers on the CPU, and every
// access to memory is checked. The build of the tests puts this folder before the root, so that kernels include this
// file.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/vec.h"
#include "tests/simt/block.h"
#include "tests/simt/device_memory.h"
#include "tests/simt/simt_runtime.h"

#define SKP_GPU simt
#define SKP_KERNEL(most_threads, blocks_at_once) void
#define SKP_DEVICE inline
#define SKP_UNROLL
#define SKP_UNROLL_BY(count)

namespace skippipe::simt {

using cuda::Grid;
using cuda::kWarp;
using cuda::Launch;
using cuda::shared_bytes;

inline constexpr const char* kBackendName = "simt";

// ---------------------------------------------------------------------------------------------------- threads

inline int thread_index() { return Block::current().thread(); }
inline int lane_index() { return thread_index() % kWarp; }
inline int warp_index() { return thread_index() / kWarp; }
inline int block_threads() { return Block::current().launch().threads; }
inline int64_t block_x() { return Block::current().x(); }
inline int block_y() { return Block::current().y(); }
inline int block_z() { return Block::current().z(); }
inline int64_t grid_x() { return Block::current().launch().grid.x; }

inline void block_sync() { Block::current().barrier(0, block_threads()); }
inline void barrier_sync(int barrier, int threads) {
  if (barrier == 0) Block::current().fail("names barrier 0, which is block_sync's");
  Block::current().barrier(barrier, threads);
}
inline void warp_sync() { Block::current().warp_sync(); }

// ---------------------------------------------------------------------------------------------------- memory

template <typename T>
class Global {
 public:
  using Element = std::remove_const_t<T>;

  Global() = default;
  Global(T* data, int64_t count) : data_(backing_of(data, count)), begin_(data_), end_(data_ + count) {}
  template <typename U = T>
  requires(!std::is_const_v<U>) operator Global<const U>() const {  // NOLINT
    return {data_, begin_, end_};
  }

  Global operator+(int64_t elements) const {
    return {reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(data_) + static_cast<uintptr_t>(elements) * sizeof(T)),
            begin_, end_};
  }
  Element load(int64_t i) const { return *at(i, 1, Block::Access::kRead); }
  void store(int64_t i, Element value) const { *at(i, 1, Block::Access::kWrite) = value; }
  template <int N>
  Vec<Element, N> load_vec(int64_t i) const {
    Vec<Element, N> value;
    std::memcpy(&value, at(i, N, Block::Access::kRead), sizeof(value));
    return value;
  }
  template <int N>
  void store_vec(int64_t i, const Vec<Element, N>& value) const {
    std::memcpy(at(i, N, Block::Access::kWrite), &value, sizeof(value));
  }

  // The address of element i, from which on `count` will be touched at once.
  T* at(int64_t i, int64_t count, Block::Access access) const {
    T* const address = aligned(i, count);
    const auto first = reinterpret_cast<uintptr_t>(address);
    const auto bytes = static_cast<uintptr_t>(count) * sizeof(T);
    if (first < reinterpret_cast<uintptr_t>(begin_) || first + bytes > reinterpret_cast<uintptr_t>(end_)) {
      const auto element = (static_cast<int64_t>(first) - static_cast<int64_t>(reinterpret_cast<uintptr_t>(begin_))) /
                           static_cast<int64_t>(sizeof(T));
      Block::current().fail("touches elements " + std::to_string(element) + " to " + std::to_string(element + count) +
                            " of a buffer of " + std::to_string(end_ - begin_));
    }
    Block::current().touch_global(address, static_cast<int64_t>(bytes), access);
    return address;
  }
  // The same of what will not be touched.
  T* aligned(int64_t i, int64_t count) const {
    const auto address = reinterpret_cast<uintptr_t>(data_) + static_cast<uintptr_t>(i) * sizeof(T);
    if (address % (static_cast<uintptr_t>(count) * sizeof(T)) != 0)
      Block::current().fail("touches device memory that is not aligned");
    return reinterpret_cast<T*>(address);
  }

 private:
  template <typename>
  friend class Global;
  Global(T* data, T* begin, T* end) : data_(data), begin_(begin), end_(end) {}

  T* data_ = nullptr;
  T* begin_ = nullptr;
  T* end_ = nullptr;
};

template <typename T>
class Shared {
 public:
  Shared() = default;
  Shared(T* data, int count) : Shared(data, data, data + count) {}

  Shared operator+(int elements) const { return {data_ + elements, begin_, end_}; }
  T load(int i) const { return *at(i, 1, Block::Access::kRead); }
  void store(int i, T value) const { *at(i, 1, Block::Access::kWrite) = value; }
  template <int N>
  Vec<T, N> load_vec(int i) const {
    Vec<T, N> value;
    std::memcpy(&value, at(i, N, Block::Access::kRead), sizeof(value));
    return value;
  }
  template <int N>
  void store_vec(int i, const Vec<T, N>& value) const {
    std::memcpy(at(i, N, Block::Access::kWrite), &value, sizeof(value));
  }

  // The address of element i, from which on `count` will be touched at once.
  T* at(int i, int count, Block::Access access) const {
    T* const address = within(i, count);
    Block::current().touch_shared(address, count * static_cast<int64_t>(sizeof(T)), access);
    return address;
  }
  // Refuses what lies beside the piece that was taken, be it another piece or nobody's.
  T* within(int i, int count) const {
    const std::ptrdiff_t first = data_ - begin_ + i;
    if (first < 0 || first + count > end_ - begin_)
      Block::current().fail("touches elements " + std::to_string(first) + " to " + std::to_string(first + count) +
                            " of a piece of " + std::to_string(end_ - begin_) + " in shared memory");
    return data_ + i;
  }

 private:
  Shared(T* data, T* begin, T* end) : data_(data), begin_(begin), end_(end) {}

  T* data_ = nullptr;
  T* begin_ = nullptr;
  T* end_ = nullptr;
};

class SharedMemory {
 public:
  SharedMemory() : next_(Block::current().shared()) {}
  template <typename T>
  Shared<T> take(int count) {
    T* data = reinterpret_cast<T*>(next_);
    next_ += shared_bytes<T>(count);
    return {data, count};
  }

 private:
  std::byte* next_;
};

template <typename T>
void copy_async(Shared<T> to, Global<const T> from, bool valid) {
  constexpr int kCount = 16 / sizeof(T);
  from.aligned(0, kCount);  // even if nothing is read
  Block::current().copy_async(to.within(0, kCount), valid ? from.at(0, kCount, Block::Access::kRead) : nullptr);
}
inline void copy_async_commit() { Block::current().copy_async_commit(); }
template <int kPending>
void copy_async_wait() {
  Block::current().copy_async_wait(kPending);
}

inline uint32_t atomic_add(Global<uint32_t> at, int64_t i, uint32_t value) {
  uint32_t& place = *at.at(i, 1, Block::Access::kAtomic);
  place += value;
  return place - value;
}
inline uint32_t atomic_add(Shared<uint32_t> at, int i, uint32_t value) {
  uint32_t& place = *at.at(i, 1, Block::Access::kAtomic);
  place += value;
  return place - value;
}

// ---------------------------------------------------------------------------------------------------- warps

namespace internal {
// Each lane gets the value that lane source(own lane) brings.
template <typename T, typename Source>
T exchange(const char* kind, T value, const Source& source) {
  struct Operand {
    T brought, got;
    int from;
  } mine{value, {}, source(lane_index())};
  Block::current().collective(kind, mine, [](const auto& lanes) {
    for (Operand* lane : lanes) lane->got = lanes[static_cast<size_t>(lane->from)]->brought;
  });
  return mine.got;
}
}  // namespace internal

template <typename T>
T shuffle_xor(T value, int mask) {
  return internal::exchange("shuffle_xor", value, [mask](int lane) { return (lane ^ mask) % kWarp; });
}
template <typename T>
T shuffle(T value, int source) {
  return internal::exchange("shuffle", value, [source](int) { return source & (kWarp - 1); });
}
template <typename T>
T shuffle_up(T value, int distance) {
  return internal::exchange("shuffle_up", value,
                            [distance](int lane) { return lane >= distance ? lane - distance : lane; });
}
inline uint32_t ballot(bool yes) {
  struct Operand {
    bool yes;
    uint32_t all;
  } mine{yes, 0};
  Block::current().collective("ballot", mine, [](const auto& lanes) {
    uint32_t all = 0;
    for (size_t i = 0; i < kWarp; ++i) all |= static_cast<uint32_t>(lanes[i]->yes) << i;
    for (Operand* lane : lanes) lane->all = all;
  });
  return mine.all;
}
inline int count_bits(uint32_t bits) { return std::popcount(bits); }
inline int lowest_bit(uint32_t bits) { return std::countr_zero(bits); }

// ---------------------------------------------------------------------------------------------------- matrices

namespace internal {
inline void load_matrix_x4(const char* kind, uint32_t (&r)[4], Shared<Bf16> row, bool transposed) {
  struct Operand {
    const uint16_t* row;
    uint32_t (&r)[4];
  } mine{reinterpret_cast<const uint16_t*>(row.at(0, 8, Block::Access::kRead)), r};
  Block::current().collective(kind, mine, [transposed](const auto& lanes) {
    const auto element = [&](size_t matrix, size_t i, size_t j) {
      return static_cast<uint32_t>(transposed ? lanes[matrix * 8 + j]->row[i] : lanes[matrix * 8 + i]->row[j]);
    };
    for (size_t lane = 0; lane < kWarp; ++lane)
      for (size_t m = 0; m < 4; ++m)
        lanes[lane]->r[m] = element(m, lane / 4, 2 * (lane % 4)) | element(m, lane / 4, 2 * (lane % 4) + 1) << 16;
  });
}
}  // namespace internal

inline void load_matrix_x4(uint32_t (&r)[4], Shared<Bf16> tile, int at) {
  internal::load_matrix_x4("load_matrix_x4", r, tile + at, false);
}
inline void load_matrix_x4_transposed(uint32_t (&r)[4], Shared<Bf16> tile, int at) {
  internal::load_matrix_x4("load_matrix_x4_transposed", r, tile + at, true);
}

inline void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operand {
    float (&d)[4];
    const uint32_t (&a)[4];
    uint32_t b[2];
  } mine{d, a, {b0, b1}};
  Block::current().collective("multiply_matrices", mine, [](const auto& lanes) {
    const auto half = [](uint32_t packed, size_t which) {
      return std::bit_cast<float>(which == 0 ? packed << 16 : packed & 0xffff0000u);
    };
    float left[16][16], right[16][8];
    for (size_t lane = 0; lane < kWarp; ++lane)
      for (size_t h = 0; h < 2; ++h) {
        const size_t g = lane / 4, p = 2 * (lane % 4) + h;
        left[g][p] = half(lanes[lane]->a[0], h);
        left[g + 8][p] = half(lanes[lane]->a[1], h);
        left[g][p + 8] = half(lanes[lane]->a[2], h);
        left[g + 8][p + 8] = half(lanes[lane]->a[3], h);
        right[p][g] = half(lanes[lane]->b[0], h);
        right[p + 8][g] = half(lanes[lane]->b[1], h);
      }
    for (size_t lane = 0; lane < kWarp; ++lane)
      for (size_t j = 0; j < 4; ++j) {
        const size_t row = lane / 4 + 8 * (j / 2), column = 2 * (lane % 4) + j % 2;
        float sum = 0;
        for (size_t k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        lanes[lane]->d[j] += sum;
      }
  });
}

// ---------------------------------------------------------------------------------------------------- numbers

inline float to_float(float x) { return x; }
inline float to_float(Bf16 x) { return x; }
inline uint32_t pack_bf16(float low, float high) {
  return Bf16(low).bits | static_cast<uint32_t>(Bf16(high).bits) << 16;
}
template <typename T>
T from_float(float x) {
  return T(x);
}
inline float fast_exp2(float x) {
  const float result = std::exp2(x);
  return result < 0x1p-126f ? 0.0f : result;
}
inline float fast_reciprocal(float x) {
  if (std::abs(x) < 0x1p-126f) return std::copysign(std::numeric_limits<float>::infinity(), x);
  const float result = 1.0f / x;
  return std::abs(result) < 0x1p-126f ? std::copysign(0.0f, x) : result;
}

// ---------------------------------------------------------------------------------------------------- launches

template <typename... Parameters, typename... Arguments>
void launch(const Launch& at, void (*kernel)(Parameters...), const Arguments&... arguments) {
  queue_work(at.stream, [at, kernel, converted = std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)] {
    Block::run_grid(at, [&] { std::apply(kernel, converted); });
  });
}

}  // namespace skippipe::simt
