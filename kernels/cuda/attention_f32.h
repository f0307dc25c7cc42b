// What the kernels of attention in f32 share: how queries and keys are cut into tiles, and the products of tiles. These
// run on the ordinary arithmetic units, since matrix units round f32 away.
//
// The query heads that read one key/value head are its group. Token t and head h of the group are query row
// t * group + h of that key/value head, so that a tile of keys serves the group's heads together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/context.h"
#include "kernels/cuda/hardware.h"
#include "kernels/tensor.h"

namespace skippipe::SKP_GPU {

// The forward pass of the last T of S tokens: q (B,T,H,D); k, v (B,S,K,D); y and lse as in attention.h. With B = 1 the
// keys may be cut into parts, of which each leaves its own y (parts,T,H,D) and lse (parts,H,T); a row that sees none of
// a part's keys has zeros and -infinity there.
struct ForwardF32 {
  Tensor y, lse;
  ConstTensor q, k, v;
  float scale;
  int query_rows;  // per block, kFewRowsF32 or kManyRowsF32; the kernel may take fewer
  int parts = 1;
};
inline constexpr int kFewRowsF32 = 16, kManyRowsF32 = 64;
void forward_f32(Context& ctx, const ForwardF32& job);

struct RowStrides {
  int64_t batch, token, head;

  explicit RowStrides(const ConstTensor& x) : batch(x.stride(0)), token(x.stride(1)), head(x.stride(2)) {}
};

// The sizes of an attention of q (B,T,H,D) to k (B,S,K,D), and where rows lie.
struct AttentionSizes {
  int64_t batch;
  int queries, keys, heads, kv_heads, head_dim;
  int group, rows;  // of queries, per key/value head

  AttentionSizes(const ConstTensor& q, const ConstTensor& k)
      : batch(q.dim(0)),
        queries(static_cast<int>(q.dim(1))),
        keys(static_cast<int>(k.dim(1))),
        heads(static_cast<int>(q.dim(2))),
        kv_heads(static_cast<int>(k.dim(2))),
        head_dim(static_cast<int>(q.dim(3))),
        group(heads / kv_heads),
        rows(queries * group) {}

  // How many keys a query row sees.
  SKP_DEVICE int visible(int row) const { return keys - queries + row / group + 1; }
  // The element offset of a query row in a tensor shaped as q, and in lse; behind the last row, -1.
  SKP_DEVICE int64_t query_offset(const RowStrides& x, int64_t b, int kv_head, int row) const {
    if (row >= rows) return -1;
    return b * x.batch + row / group * x.token + (kv_head * group + row % group) * x.head;
  }
  SKP_DEVICE int64_t lse_offset(int64_t b, int kv_head, int row) const {
    return row < rows ? (b * heads + kv_head * group + row % group) * queries + row / group : -1;
  }
  // The same of a key row in a tensor shaped as k.
  SKP_DEVICE int64_t key_offset(const RowStrides& x, int64_t b, int kv_head, int row) const {
    return row < keys ? b * x.batch + row * x.token + kv_head * x.head : -1;
  }
};

template <typename Int>
constexpr Int divide_up(Int value, int by) {
  return (value + by - 1) / by;
}

// What a block works on, where blocks lie along x: the (batch, key/value head) of one tile stand side by side.
struct BlockPlace {
  int tile, kv_head;
  int64_t batch;

  SKP_DEVICE BlockPlace(int64_t batches, int kv_heads)
      : tile(static_cast<int>(block_x() / (batches * kv_heads))),
        kv_head(static_cast<int>(block_x() % kv_heads)),
        batch(block_x() / kv_heads % batches) {}
};

// What every GPU that we compile for has for a block; the least has sm_89.
inline constexpr int64_t kSharedBytesAnywhere = 99 * 1024;
inline constexpr float kLog2E = 1.4426950408889634f;

// Tiles of kQueries by kKeys rows, both of up to kWidth elements, in a block of kThreads threads, which form rows of
// 16: a thread owns kRows x kColumns scores and, of each of its rows, kOwned elements of what they weigh. In shared
// memory a row is four elements longer, so that threads which read neighbouring rows meet different banks.
template <int kQueryRows, int kKeyRows, int kMostHeadDim, int kThreadCount>
struct TileF32 {
  static constexpr int kQueries = kQueryRows, kKeys = kKeyRows, kWidth = kMostHeadDim, kThreads = kThreadCount;
  static constexpr int kAcross = 16, kDown = kThreads / kAcross;
  static constexpr int kRows = kQueries / kDown, kColumns = kKeys / kAcross;
  static constexpr int kKeyRowsOwned = kKeys / kDown;  // of results per key
  static constexpr int kOwned = kWidth / kAcross;
  static constexpr int kVector = std::min(kOwned, 4);  // elements that are accessed at once
  static constexpr int kPitch = kWidth + 4, kScorePitch = kKeys + 4;
  static constexpr int kQueryFloats = kQueries * kPitch, kKeyFloats = kKeys * kPitch;
  static constexpr int kScoreFloats = kQueries * kScorePitch;

  static SKP_DEVICE int across() { return thread_index() % kAcross; }
  static SKP_DEVICE int down() { return thread_index() / kAcross; }
  // Where the thread's r-th query row, c-th key column, r-th row of keys, and kVector elements from the c-th owned one
  // on lie in the tile.
  static SKP_DEVICE int row(int r) { return down() * kRows + r; }
  static SKP_DEVICE int column(int c) { return across() + c * kAcross; }
  static SKP_DEVICE int key_row(int r) { return down() * kKeyRowsOwned + r; }
  static SKP_DEVICE int element(int c) { return across() * kVector + c * kAcross; }

  template <int kCount>
  static SKP_DEVICE void clear(float (&x)[kCount]) {
    SKP_UNROLL
    for (int i = 0; i < kCount; ++i) x[i] = 0;
  }
  template <int kCount, int kLength>
  static SKP_DEVICE void clear(float (&x)[kCount][kLength]) {
    SKP_UNROLL
    for (int i = 0; i < kCount; ++i) clear(x[i]);
  }

  // Starts to read kCount rows, row r from element offset(r) on. Zeros where that is negative, and behind `head_dim`.
  // The caller ends the group of copies; all is there after copy_async_wait and block_sync.
  template <int kCount, typename Offset>
  static SKP_DEVICE void load(Shared<float> to, Global<const float> from, int head_dim, bool vectors,
                              const Offset& offset) {
    if (vectors) {
      for (int i = thread_index() * 4; i < kCount * kWidth; i += kThreads * 4) {
        const int r = i / kWidth, d = i % kWidth;
        const int64_t start = offset(r);
        const bool valid = start >= 0 && d < head_dim;
        copy_async(to + (r * kPitch + d), from + (valid ? start + d : 0), valid);
      }
    } else {
      for (int i = thread_index(); i < kCount * kWidth; i += kThreads) {
        const int r = i / kWidth, d = i % kWidth;
        const int64_t start = offset(r);
        to.store(r * kPitch + d, start >= 0 && d < head_dim ? from.load(start + d) : 0.0f);
      }
    }
  }

  // s[r][c]: the thread's query rows times its key rows.
  static SKP_DEVICE void score(float (&s)[kRows][kColumns], Shared<float> queries, Shared<float> keys, int head_dim) {
    clear(s);
    SKP_UNROLL_BY(2)
    for (int d = 0; d < head_dim; d += 4) {
      Vec<float, 4> q[kRows];
      SKP_UNROLL
      for (int r = 0; r < kRows; ++r) q[r] = queries.load_vec<4>(row(r) * kPitch + d);
      SKP_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const Vec<float, 4> k = keys.load_vec<4>(column(c) * kPitch + d);
        SKP_UNROLL
        for (int r = 0; r < kRows; ++r) {
          SKP_UNROLL
          for (int i = 0; i < 4; ++i) s[r][c] += q[r].values[i] * k.values[i];
        }
      }
    }
  }

  static SKP_DEVICE void store_scores(Shared<float> to, const float (&s)[kRows][kColumns]) {
    SKP_UNROLL
    for (int r = 0; r < kRows; ++r) {
      SKP_UNROLL
      for (int c = 0; c < kColumns; ++c) to.store(row(r) * kScorePitch + column(c), s[r][c]);
    }
  }

  // The thread's elements of a row: out += weight x, and x from row `index`.
  static SKP_DEVICE void add_row(float (&out)[kOwned], float weight, const Vec<float, kVector> (&x)[kOwned / kVector]) {
    SKP_UNROLL
    for (int d = 0; d < kOwned; ++d) out[d] += weight * x[d / kVector].values[d % kVector];
  }
  static SKP_DEVICE void load_row(Vec<float, kVector> (&x)[kOwned / kVector], Shared<float> rows, int index) {
    SKP_UNROLL
    for (int d = 0; d < kOwned; d += kVector) x[d / kVector] = rows.load_vec<kVector>(index * kPitch + element(d));
  }

  // out[r] += the sum over keys j of scores(r, j) times row j of `keys`.
  static SKP_DEVICE void add_keys(float (&out)[kRows][kOwned], Shared<float> scores, Shared<float> keys) {
    SKP_UNROLL_BY(2)
    for (int j = 0; j < kKeys; j += 4) {
      Vec<float, 4> weights[kRows];
      SKP_UNROLL
      for (int r = 0; r < kRows; ++r) weights[r] = scores.load_vec<4>(row(r) * kScorePitch + j);
      SKP_UNROLL
      for (int i = 0; i < 4; ++i) {
        Vec<float, kVector> x[kOwned / kVector];
        load_row(x, keys, j + i);
        SKP_UNROLL
        for (int r = 0; r < kRows; ++r) add_row(out[r], weights[r].values[i], x);
      }
    }
  }

  // out[r] += the sum over query rows i of scores(i, r) times row i of `queries`.
  static SKP_DEVICE void add_queries(float (&out)[kKeyRowsOwned][kOwned], Shared<float> scores, Shared<float> queries) {
    for (int i = 0; i < kQueries; ++i) {
      const auto weights = scores.load_vec<kKeyRowsOwned>(i * kScorePitch + key_row(0));
      Vec<float, kVector> x[kOwned / kVector];
      load_row(x, queries, i);
      SKP_UNROLL
      for (int r = 0; r < kKeyRowsOwned; ++r) add_row(out[r], weights.values[r], x);
    }
  }

  // The thread's elements of the row that begins at `start`, times `factor`.
  static SKP_DEVICE void store_row(Global<float> to, int64_t start, const float (&x)[kOwned], float factor,
                                   int head_dim, bool vectors) {
    SKP_UNROLL
    for (int c = 0; c < kOwned; c += kVector) {
      Vec<float, kVector> part;
      SKP_UNROLL
      for (int i = 0; i < kVector; ++i) part.values[i] = x[c + i] * factor;
      const int d = element(c);
      if (vectors) {
        if (d < head_dim) to.store_vec(start + d, part);
      } else {
        SKP_UNROLL
        for (int i = 0; i < kVector; ++i)
          if (d + i < head_dim) to.store(start + d + i, part.values[i]);
      }
    }
  }
};

// body(width) with the tiles' width for such heads.
template <typename Body>
void with_tile_width(int64_t head_dim, const Body& body) {
  if (head_dim <= 32)
    body(std::integral_constant<int, 32>());
  else if (head_dim <= 64)
    body(std::integral_constant<int, 64>());
  else if (head_dim <= 128)
    body(std::integral_constant<int, 128>());
  else
    body(std::integral_constant<int, 256>());
}

}  // namespace skippipe::SKP_GPU
