// The gradients of attention in f32, after Dao 2023, "FlashAttention-2" (arXiv:2307.08691): one kernel sums dq over the
// keys, one sums dk and dv over the queries, so that each sum has one block and one order.
//   p = exp(scale q.k - lse), ds = p (dy.v - delta);  dq = scale ds k, dk = scale ds^T q, dv = p^T dy
#include "kernels/cuda/attention_f32.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/memory.h"

namespace skippipe::SKP_GPU {
namespace {

struct BackwardParameters {
  AttentionSizes sizes;
  RowStrides q, k, v, dy, dq, dk, dv;
  float scale;
  bool vectors;
};

// What the recomputation of probabilities needs of the thread's query rows. Rows behind the last have zeros for q and
// dy, too, and so add nothing.
template <typename Tile>
struct QueryState {
  float lse[Tile::kRows], delta[Tile::kRows];
  int visible[Tile::kRows];

  SKP_DEVICE QueryState(const AttentionSizes& sizes, Global<const float> all_lse, Global<const float> all_delta,
                        int64_t b, int kv_head, int first_row) {
    SKP_UNROLL
    for (int r = 0; r < Tile::kRows; ++r) {
      const int row = first_row + Tile::row(r);
      const int64_t at = sizes.lse_offset(b, kv_head, row);
      lse[r] = at >= 0 ? all_lse.load(at) : 0.0f;
      delta[r] = at >= 0 ? all_delta.load(at) : 0.0f;
      visible[r] = sizes.visible(row);
    }
  }

  // From scores to probabilities.
  SKP_DEVICE void recompute(float (&s)[Tile::kRows][Tile::kColumns], int first_key, float scale) const {
    SKP_UNROLL
    for (int r = 0; r < Tile::kRows; ++r) {
      SKP_UNROLL
      for (int c = 0; c < Tile::kColumns; ++c)
        s[r][c] = first_key + Tile::column(c) < visible[r] ? fast_exp2((s[r][c] * scale - lse[r]) * kLog2E) : 0.0f;
    }
  }

  // ds from dy.v, in place.
  SKP_DEVICE void differentiate(float (&ds)[Tile::kRows][Tile::kColumns],
                                const float (&p)[Tile::kRows][Tile::kColumns]) const {
    SKP_UNROLL
    for (int r = 0; r < Tile::kRows; ++r) {
      SKP_UNROLL
      for (int c = 0; c < Tile::kColumns; ++c) ds[r][c] = p[r][c] * (ds[r][c] - delta[r]);
    }
  }
};

template <typename Tile>
SKP_KERNEL(Tile::kThreads, 2)
sum_over_keys(BackwardParameters at, Global<float> dq, Global<const float> dy, Global<const float> q,
              Global<const float> k, Global<const float> v, Global<const float> lse, Global<const float> delta) {
  const AttentionSizes& sizes = at.sizes;
  const BlockPlace place(sizes.batch, sizes.kv_heads);
  const int64_t b = place.batch;
  const int kv_head = place.kv_head;
  // Those with the most keys first.
  const int first_row = (divide_up(sizes.rows, Tile::kQueries) - 1 - place.tile) * Tile::kQueries;

  SharedMemory memory;
  const Shared<float> queries = memory.take<float>(Tile::kQueryFloats), dys = memory.take<float>(Tile::kQueryFloats),
                      keys = memory.take<float>(Tile::kKeyFloats), values = memory.take<float>(Tile::kKeyFloats),
                      gradients = memory.take<float>(Tile::kScoreFloats);

  const int last_row = (first_row + Tile::kQueries < sizes.rows ? first_row + Tile::kQueries : sizes.rows) - 1;
  const int key_tiles = divide_up(sizes.visible(last_row), Tile::kKeys);
  const auto load_queries = [&](Shared<float> to, Global<const float> from, const RowStrides& x) {
    Tile::template load<Tile::kQueries>(to, from, sizes.head_dim, at.vectors,
                                        [&](int r) { return sizes.query_offset(x, b, kv_head, first_row + r); });
  };
  const auto load_keys = [&](Shared<float> to, Global<const float> from, const RowStrides& x, int tile) {
    if (tile < key_tiles)
      Tile::template load<Tile::kKeys>(to, from, sizes.head_dim, at.vectors,
                                       [&](int r) { return sizes.key_offset(x, b, kv_head, tile * Tile::kKeys + r); });
    copy_async_commit();
  };
  load_queries(queries, q, at.q);
  load_queries(dys, dy, at.dy);
  load_keys(values, v, at.v, 0);
  load_keys(keys, k, at.k, 0);

  const QueryState<Tile> state(sizes, lse, delta, b, kv_head, first_row);
  float out[Tile::kRows][Tile::kOwned];
  Tile::clear(out);
  for (int tile = 0; tile < key_tiles; ++tile) {
    float p[Tile::kRows][Tile::kColumns], ds[Tile::kRows][Tile::kColumns];
    copy_async_wait<1>();
    block_sync();  // the values are there
    Tile::score(ds, dys, values, sizes.head_dim);
    copy_async_wait<0>();
    block_sync();  // the keys are there, and nobody reads the values any more
    load_keys(values, v, at.v, tile + 1);
    Tile::score(p, queries, keys, sizes.head_dim);
    state.recompute(p, tile * Tile::kKeys, at.scale);
    state.differentiate(ds, p);
    Tile::store_scores(gradients, ds);
    warp_sync();  // a row of scores belongs to half a warp
    Tile::add_keys(out, gradients, keys);
    block_sync();
    load_keys(keys, k, at.k, tile + 1);
  }

  SKP_UNROLL
  for (int r = 0; r < Tile::kRows; ++r) {
    const int64_t start = sizes.query_offset(at.dq, b, kv_head, first_row + Tile::row(r));
    if (start >= 0) Tile::store_row(dq, start, out[r], at.scale, sizes.head_dim, at.vectors);
  }
}

template <typename Tile>
SKP_KERNEL(Tile::kThreads, 2)
sum_over_queries(BackwardParameters at, Global<float> dk, Global<float> dv, Global<const float> dy,
                 Global<const float> q, Global<const float> k, Global<const float> v, Global<const float> lse,
                 Global<const float> delta) {
  const AttentionSizes& sizes = at.sizes;
  const BlockPlace place(sizes.batch, sizes.kv_heads);  // the first keys, which the most queries see, come first
  const int64_t b = place.batch;
  const int kv_head = place.kv_head, first_key = place.tile * Tile::kKeys;

  SharedMemory memory;
  const Shared<float> keys = memory.take<float>(Tile::kKeyFloats), values = memory.take<float>(Tile::kKeyFloats),
                      queries = memory.take<float>(Tile::kQueryFloats), dys = memory.take<float>(Tile::kQueryFloats),
                      probabilities = memory.take<float>(Tile::kScoreFloats),
                      gradients = memory.take<float>(Tile::kScoreFloats);

  const int row_tiles = divide_up(sizes.rows, Tile::kQueries);
  const auto load_keys = [&](Shared<float> to, Global<const float> from, const RowStrides& x) {
    Tile::template load<Tile::kKeys>(to, from, sizes.head_dim, at.vectors,
                                     [&](int r) { return sizes.key_offset(x, b, kv_head, first_key + r); });
  };
  const auto load_queries = [&](Shared<float> to, Global<const float> from, const RowStrides& x, int tile) {
    if (tile < row_tiles)
      Tile::template load<Tile::kQueries>(to, from, sizes.head_dim, at.vectors, [&](int r) {
        return sizes.query_offset(x, b, kv_head, tile * Tile::kQueries + r);
      });
    copy_async_commit();
  };
  const int first_tile = first_key * sizes.group / Tile::kQueries;
  load_keys(keys, k, at.k);
  load_keys(values, v, at.v);
  load_queries(queries, q, at.q, first_tile);
  load_queries(dys, dy, at.dy, first_tile);

  float key_sums[Tile::kKeyRowsOwned][Tile::kOwned], value_sums[Tile::kKeyRowsOwned][Tile::kOwned];
  Tile::clear(key_sums);
  Tile::clear(value_sums);
  for (int tile = first_tile; tile < row_tiles; ++tile) {
    const QueryState<Tile> state(sizes, lse, delta, b, kv_head, tile * Tile::kQueries);
    float p[Tile::kRows][Tile::kColumns], ds[Tile::kRows][Tile::kColumns];
    copy_async_wait<1>();
    block_sync();  // the queries are there
    Tile::score(p, queries, keys, sizes.head_dim);
    state.recompute(p, first_key, at.scale);
    Tile::store_scores(probabilities, p);
    copy_async_wait<0>();
    block_sync();  // dy is there
    Tile::score(ds, dys, values, sizes.head_dim);
    state.differentiate(ds, p);
    Tile::store_scores(gradients, ds);
    block_sync();
    Tile::add_queries(key_sums, gradients, queries);
    block_sync();
    load_queries(queries, q, at.q, tile + 1);
    Tile::add_queries(value_sums, probabilities, dys);
    block_sync();
    load_queries(dys, dy, at.dy, tile + 1);
  }

  SKP_UNROLL
  for (int r = 0; r < Tile::kKeyRowsOwned; ++r) {
    const int key = first_key + Tile::key_row(r);
    if (key >= sizes.keys) continue;
    Tile::store_row(dk, sizes.key_offset(at.dk, b, kv_head, key), key_sums[r], at.scale, sizes.head_dim, at.vectors);
    Tile::store_row(dv, sizes.key_offset(at.dv, b, kv_head, key), value_sums[r], 1.0f, sizes.head_dim, at.vectors);
  }
}

}  // namespace

void attention_backward_f32(Context& ctx, const cuda::DeviceLimits&, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy,
                            ConstTensor q, ConstTensor k, ConstTensor v, ConstTensor y, ConstTensor lse, float scale) {
  const auto delta = workspace<float>(ctx, 0, lse.elements());
  attention_delta(ctx, delta, dy, y);
  bool vectors = true;
  for (const ConstTensor& x : {ConstTensor(dq), ConstTensor(dk), ConstTensor(dv), dy, q, k, v})
    vectors = vectors && takes_vectors(x);
  const BackwardParameters at{AttentionSizes(q, k), RowStrides(q),  RowStrides(k),  RowStrides(v), RowStrides(dy),
                              RowStrides(dq),       RowStrides(dk), RowStrides(dv), scale,         vectors};
  with_tile_width(q.dim(3), [&](auto width) {
    constexpr int kSide = width() > 128 ? 16 : 32;
    using Tile = TileF32<kSide, kSide, width(), 128>;
    constexpr int64_t kTiles = 2 * shared_bytes<float>(Tile::kQueryFloats) + 2 * shared_bytes<float>(Tile::kKeyFloats);
    constexpr int64_t kScores = shared_bytes<float>(Tile::kScoreFloats);
    static_assert(kTiles + 2 * kScores <= kSharedBytesAnywhere);
    const int64_t heads = at.sizes.batch * at.sizes.kv_heads;
    launch(Launch(ctx, "attention_backward_f32 dq", {divide_up(at.sizes.rows, kSide) * heads}, Tile::kThreads,
                  kTiles + kScores),
           sum_over_keys<Tile>, at, global<float>(dq), global<float>(dy), global<float>(q), global<float>(k),
           global<float>(v), global<float>(lse), delta);
    launch(Launch(ctx, "attention_backward_f32 dk dv", {divide_up(at.sizes.keys, kSide) * heads}, Tile::kThreads,
                  kTiles + 2 * kScores),
           sum_over_queries<Tile>, at, global<float>(dk), global<float>(dv), global<float>(dy), global<float>(q),
           global<float>(k), global<float>(v), global<float>(lse), delta);
  });
}

}  // namespace skippipe::SKP_GPU
