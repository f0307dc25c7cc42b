// What the bf16 attention kernels are made of: tiles of rows in shared memory, the two products of tiles on tensor
// cores, and what lies between them. A tile of scores stays in the registers of one warp, and becomes the left operand
// of the second product there (Dao 2023, arXiv:2307.08691).
//
// Registers of a warp's matrix of f32: [m][n][e] with 16 x 8 elements per (m, n), as multiply_matrices has them.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device_limits.h"
#include "kernels/cuda/hardware.h"
#include "kernels/cuda/memory.h"

namespace skippipe::SKP_GPU {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr int kChunk = 8;  // elements in 16 bytes

// ---------------------------------------------------------------------------------------------------- heads

// The rows of one head. (An int lets the hardware multiply once.)
template <typename T>
struct HeadRows {
  Global<T> data;
  int stride;

  SKP_DEVICE int64_t at(int row, int column) const { return static_cast<int64_t>(row) * stride + column; }
};

// A tensor (B,T,H,D), of bf16 or const bf16.
template <typename T>
struct Heads {
  Global<T> data;
  int64_t batch_stride, head_stride;
  int token_stride;

  SKP_DEVICE HeadRows<T> head(int64_t b, int64_t h) const {
    return {data + (b * batch_stride + h * head_stride), token_stride};
  }
};

template <typename Void>
auto heads_of(const BasicTensor<Void>& x) {
  using T = std::conditional_t<std::is_const_v<Void>, const Bf16, Bf16>;
  return Heads<T>{global<Bf16>(x), x.stride(0), x.stride(2), static_cast<int>(x.stride(1))};
}

// What is the same for all tensors of a launch.
struct AttentionExtents {
  int tokens, head_dim;
  Divisor heads, kv_heads, group;  // query heads per key/value head
  bool vectors;                    // whether all rows take accesses of 16 bytes
};

inline AttentionExtents extents_of(const ConstTensor& q, const ConstTensor& k, std::initializer_list<ConstTensor> all) {
  const auto extent = [](int64_t value) { return static_cast<int>(value); };
  return {extent(q.dim(1)),
          extent(q.dim(3)),
          Divisor(extent(q.dim(2))),
          Divisor(extent(k.dim(2))),
          Divisor(extent(q.dim(2) / k.dim(2))),
          std::all_of(all.begin(), all.end(), [](const ConstTensor& x) { return takes_vectors(x); })};
}

// Blocks (x, y, z): head z * grid_x + x of all `heads` (of q or k) in all batches, its block y of `blocks`. Of so many
// heads at once several blocks run at the same time, which then find keys and values in the cache; and the longest
// blocks of these heads start first, so that multiprocessors finish together.
inline Grid head_grid(const cuda::DeviceLimits& limits, const ConstTensor& k, int64_t heads, int blocks) {
  const int64_t batch = k.dim(0), kv_heads = k.dim(2);
  const int64_t at_once = std::clamp<int64_t>(limits.multiprocessors / 4, 1, batch * kv_heads) * (heads / kv_heads);
  return {at_once, blocks, static_cast<int>(divide_up(batch * heads, at_once))};
}

// ---------------------------------------------------------------------------------------------------- registers

// body(m, half) for each row of a warp's matrix that this lane has elements of, the row 16 * m + 8 * half + lane / 4.
// They are x[m][i / 2][2 * half + i % 2], in column 8 * (i / 2) + i % 2 + 2 * (lane % 4).
template <int kRowTiles, typename Body>
SKP_DEVICE void for_each_row(const Body& body) {
  SKP_UNROLL
  for (int i = 0; i < 2 * kRowTiles; ++i) body(i / 2, i % 2);
}

template <int kRowTiles, int kColumnTiles>
SKP_DEVICE void set_zero(float (&x)[kRowTiles][kColumnTiles][4]) {
  for_each_row<kRowTiles>([&](int m, int half) {
    SKP_UNROLL
    for (int i = 0; i < 2 * kColumnTiles; ++i) x[m][i / 2][2 * half + i % 2] = 0;
  });
}

// ---------------------------------------------------------------------------------------------------- tiles

// Rows of kWidth elements, a multiple of 64. The chunks of a row lie permuted, so that those of one column in eight
// rows on end, and those of one row, are in different banks.
template <int kWidth>
SKP_DEVICE int tile_offset(int row, int chunk) {
  return row * kWidth + (chunk ^ row % 8) * kChunk;
}

// Loads tiles of kRows rows of one head, with zeros behind its last row and column. A thread has one column of chunks.
// kThreads threads from kFirstThread on share the work.
template <int kRows, int kWidth, int kThreads, int kFirstThread = 0>
class TileLoader {
 public:
  SKP_DEVICE TileLoader(const HeadRows<const Bf16>& from, const AttentionExtents& at)
      : from_(from), tokens_(at.tokens), head_dim_(at.head_dim), vectors_(at.vectors) {}

  // Rows [first, first + kRows). They are there after copy_async_wait and a barrier.
  SKP_DEVICE void load(Shared<Bf16> tile, int first) const {
    Global<const Bf16> source = from_.data + from_.at(first + row(), column());
    const int rows = column() < head_dim_ ? tokens_ - first - row() : 0;
    if (vectors_) {
      SKP_UNROLL
      for (int i = 0; i < kRows; i += kStep) {
        copy_async(tile + at_row(i), source, i < rows);
        source = source + from_.at(kStep, 0);
      }
    } else {
      SKP_UNROLL_BY(1)
      for (int i = 0; i < kRows / kStep * kChunk; ++i) {
        const int r = i / kChunk * kStep, d = i % kChunk;
        const bool valid = r < rows && column() + d < head_dim_;
        tile.store(at_row(r) + d, valid ? source.load(from_.at(r, d)) : from_float<Bf16>(0.0f));
      }
    }
  }

 private:
  static constexpr int kChunks = kWidth / kChunk, kStep = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && kFirstThread % kChunks == 0 && kRows % kStep == 0);

  SKP_DEVICE static int row() { return (thread_index() - kFirstThread) / kChunks; }
  SKP_DEVICE static int column() { return thread_index() % kChunks * kChunk; }
  SKP_DEVICE static int at_row(int i) {
    if constexpr (kStep % 8 == 0) return tile_offset<kWidth>(row(), thread_index() % kChunks) + i * kWidth;
    return tile_offset<kWidth>(row() + i, thread_index() % kChunks);
  }

  HeadRows<const Bf16> from_;
  int tokens_, head_dim_;
  bool vectors_;
};

// Writes a warp's sums, times a factor per row, to the rows [first, ...) of a head. `tile`: 16 * kRowTiles rows that no
// other warp uses any more.
template <int kWidth, int kRowTiles, typename Factor>
SKP_DEVICE void store_rows(const HeadRows<Bf16>& to, int first, const AttentionExtents& at, Shared<Bf16> tile,
                           const float (&sums)[kRowTiles][kWidth / 8][4], const Factor& factor) {
  constexpr int kRows = 16 * kRowTiles, kChunks = kWidth / kChunk;
  const int row = lane_index() / 4, column = 2 * (lane_index() % 4);
  warp_sync();
  for_each_row<kRowTiles>([&](int m, int half) {
    const float f = factor(m, half);
    SKP_UNROLL
    for (int n = 0; n < kChunks; ++n) {
      const Vec<float, 2> pair{{sums[m][n][2 * half] * f, sums[m][n][2 * half + 1] * f}};
      tile.store_vec(tile_offset<kWidth>(16 * m + 8 * half + row, n) + column, narrow<Bf16>(pair));
    }
  });
  warp_sync();
  if (at.vectors) {
    SKP_UNROLL_BY(1)
    for (int i = lane_index(); i < kRows * kChunks; i += kWarp) {
      const int r = i / kChunks, chunk = i % kChunks;
      if (first + r < at.tokens && chunk * kChunk < at.head_dim)
        to.data.store_vec(to.at(first + r, chunk * kChunk),
                          tile.template load_vec<kChunk>(tile_offset<kWidth>(r, chunk)));
    }
  } else {
    SKP_UNROLL_BY(1)
    for (int i = lane_index(); i < kRows * kWidth; i += kWarp) {
      const int r = i / kWidth, d = i % kWidth;
      if (first + r < at.tokens && d < at.head_dim)
        to.data.store(to.at(first + r, d), tile.load(tile_offset<kWidth>(r, d / kChunk) + d % kChunk));
    }
  }
}

// ---------------------------------------------------------------------------------------------------- products

// Matrices for multiply_matrices are loaded so many loads ahead of their use.
inline constexpr int kLoadsAhead = 2;

// Where this lane's row lies of the four matrices of 8 rows and one chunk each that are rows [0, 16) and chunks 0 and 1
// of a tile: first down the rows, or first along the chunks.
template <int kWidth>
SKP_DEVICE int rows_first() {
  return tile_offset<kWidth>(lane_index() % 16, lane_index() / 16);
}
template <int kWidth>
SKP_DEVICE int chunks_first() {
  return tile_offset<kWidth>(lane_index() / 16 * 8 + lane_index() % 8, lane_index() / 8 % 2);
}
// The same, `rows` rows (a multiple of 8) further down and 2 * `pair` chunks further along.
template <int kWidth>
SKP_DEVICE int matrices_at(int offset, int rows, int pair) {
  return (offset ^ pair % 4 * 2 * kChunk) + pair / 4 * 8 * kChunk + rows * kWidth;
}

// sums = a b^T over kWidth columns; a: 16 * kRowTiles rows of a tile, from `a_row` on, b: 8 * kColumnTiles rows of
// another, from `b_row` on.
template <int kWidth, int kRowTiles, int kColumnTiles>
SKP_DEVICE void multiply_rows(float (&sums)[kRowTiles][kColumnTiles][4], Shared<Bf16> a, int a_row, Shared<Bf16> b,
                              int b_row) {
  constexpr int kSteps = kWidth / 16, kPairs = kColumnTiles / 2, kLoads = kSteps * kPairs;
  const int a_offset = rows_first<kWidth>() + a_row * kWidth, b_offset = chunks_first<kWidth>() + b_row * kWidth;
  uint32_t left[2][kRowTiles][4], right[kLoadsAhead + 1][4];
  const auto load_left = [&](int step) {
    SKP_UNROLL
    for (int m = 0; m < kRowTiles; ++m)
      load_matrix_x4(left[step % 2][m], a, matrices_at<kWidth>(a_offset, 16 * m, step));
  };
  const auto load_right = [&](int i) {
    load_matrix_x4(right[i % (kLoadsAhead + 1)], b, matrices_at<kWidth>(b_offset, i % kPairs * 16, i / kPairs));
  };
  load_left(0);
  SKP_UNROLL
  for (int i = 0; i < kLoadsAhead && i < kLoads; ++i) load_right(i);
  set_zero(sums);
  SKP_UNROLL
  for (int i = 0; i < kLoads; ++i) {
    const int step = i / kPairs, pair = i % kPairs;
    if (pair == 0 && step + 1 < kSteps) load_left(step + 1);
    if (i + kLoadsAhead < kLoads) load_right(i + kLoadsAhead);
    const uint32_t(&r)[4] = right[i % (kLoadsAhead + 1)];
    SKP_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      multiply_matrices(sums[m][2 * pair], left[step % 2][m], r[0], r[1]);
      multiply_matrices(sums[m][2 * pair + 1], left[step % 2][m], r[2], r[3]);
    }
  }
}

// sums += a b; a in registers, 16 columns per step, b: 16 * kSteps rows of a tile, from `b_row` on. prepare(step) makes
// a[step] shortly before it is used, so that arithmetic may run beside the products of the step before.
template <int kWidth, int kRowTiles, int kSteps, typename Prepare>
SKP_DEVICE void add_product(float (&sums)[kRowTiles][kWidth / 8][4], const uint32_t (&a)[kSteps][kRowTiles][4],
                            Shared<Bf16> b, int b_row, const Prepare& prepare) {
  constexpr int kPairs = kWidth / 16, kLoads = kSteps * kPairs;
  const int b_offset = rows_first<kWidth>() + b_row * kWidth;
  uint32_t right[kLoadsAhead + 1][4];
  const auto load_right = [&](int i) {
    load_matrix_x4_transposed(right[i % (kLoadsAhead + 1)], b,
                              matrices_at<kWidth>(b_offset, i / kPairs * 16, i % kPairs));
  };
  prepare(0);
  SKP_UNROLL
  for (int i = 0; i < kLoadsAhead && i < kLoads; ++i) load_right(i);
  SKP_UNROLL
  for (int i = 0; i < kLoads; ++i) {
    const int step = i / kPairs, pair = i % kPairs;
    if (pair == 0 && step + 1 < kSteps) prepare(step + 1);
    if (i + kLoadsAhead < kLoads) load_right(i + kLoadsAhead);
    const uint32_t(&r)[4] = right[i % (kLoadsAhead + 1)];
    SKP_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      multiply_matrices(sums[m][2 * pair], a[step][m], r[0], r[1]);
      multiply_matrices(sums[m][2 * pair + 1], a[step][m], r[2], r[3]);
    }
  }
}

template <int kWidth, int kRowTiles, int kSteps>
SKP_DEVICE void add_product(float (&sums)[kRowTiles][kWidth / 8][4], const uint32_t (&a)[kSteps][kRowTiles][4],
                            Shared<Bf16> b, int b_row) {
  add_product<kWidth>(sums, a, b, b_row, [](int) {});
}

// ---------------------------------------------------------------------------------------------------- scores

// Rounds column tiles 2 * step and 2 * step + 1 to bf16, for step `step` of add_product.
template <int kRowTiles, int kColumnTiles>
SKP_DEVICE void pack_step(uint32_t (&packed)[kColumnTiles / 2][kRowTiles][4],
                          const float (&x)[kRowTiles][kColumnTiles][4], int step) {
  for_each_row<kRowTiles>([&](int m, int half) {
    SKP_UNROLL
    for (int i = 0; i < 2; ++i)
      packed[step][m][2 * i + half] = pack_bf16(x[m][2 * step + i][2 * half], x[m][2 * step + i][2 * half + 1]);
  });
}

SKP_DEVICE float low_bf16(uint32_t packed) {
  Bf16 x;
  x.bits = static_cast<uint16_t>(packed & 0xffffu);
  return to_float(x);
}
SKP_DEVICE float high_bf16(uint32_t packed) { return low_bf16(packed >> 16); }

// p^T from scores; lse: of the tile's queries, times log2(e).
template <int kRowTiles, int kColumnTiles>
SKP_DEVICE void exponentiate(uint32_t (&p)[kColumnTiles / 2][kRowTiles][4], float (&scores)[kRowTiles][kColumnTiles][4],
                             Shared<float> lse, float factor) {
  SKP_UNROLL
  for (int n = 0; n < kColumnTiles; ++n) {
    const auto shift = lse.load_vec<2>(8 * n + 2 * (lane_index() % 4));
    for_each_row<kRowTiles>([&](int m, int half) {
      SKP_UNROLL
      for (int e = 0; e < 2; ++e) {
        float& x = scores[m][n][2 * half + e];
        x = fast_exp2(x * factor - shift.values[e]);
      }
    });
    if (n % 2 == 1) pack_step(p, scores, n / 2);
  }
}

enum class Rows { kQueries, kKeys };

// Takes the scores of keys behind their query to minus infinity. `query` and `key`: of the tile's first element.
template <Rows kRowsAre, int kRowTiles, int kColumnTiles>
SKP_DEVICE void mask(float (&scores)[kRowTiles][kColumnTiles][4], int query, int key) {
  const int row = lane_index() / 4, column = 2 * (lane_index() % 4);
  const int behind = key - query + (kRowsAre == Rows::kQueries ? column - row : row - column);
  for_each_row<kRowTiles>([&](int m, int half) {
    SKP_UNROLL
    for (int i = 0; i < 2 * kColumnTiles; ++i) {
      const int from = 16 * m + 8 * half - (8 * (i / 2) + i % 2);  // rows less columns
      if (behind > (kRowsAre == Rows::kQueries ? from : -from)) scores[m][i / 2][2 * half + i % 2] = -kInfinity;
    }
  });
}

}  // namespace skippipe::SKP_GPU
