// Backward of attention without atomic additions and without buffers for partial results: two kernels that each
// recompute the probabilities from lse, one per block of keys (dk, dv), one per block of queries (dq). After Dao 2023,
// arXiv:2307.08691.
//
// With s = scale q k^T, p = exp(s - lse), dp = dy v^T, ds = p (dp - delta):
//   dv = p^T dy,  dk = scale ds^T q,  dq = scale ds k
#include <algorithm>

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_tiles.h"

namespace skippipe::SKP_GPU {
namespace {

// ---------------------------------------------------------------------------------------------------- dk, dv

// A block takes 16 * kRowTiles * kPairs keys against all queries that see them, kQueries at a time. Two warps share a
// pair's keys: the first computes p^T and sums dv, the second dp^T, ds^T and dk. So each has the registers for whole
// rows of its sum and does two of the four products; what passes between them is p, in bf16. The second sums dk of a
// tile only after the next barrier, so that there are products under way while the first computes exponentials.
template <int kWidthIs, int kRowTilesIs, int kPairsIs, int kQueriesIs>
struct KeyBlocks {
  static constexpr int kWidth = kWidthIs, kRowTiles = kRowTilesIs, kPairs = kPairsIs, kQueries = kQueriesIs;
  static constexpr int kThreads = 2 * kPairs * kWarp;
  static constexpr int kBlocksAtOnce = kWidth == 64 ? 3 : kPairs == 4 ? 1 : 2;
  static constexpr int kPairKeys = 16 * kRowTiles, kKeys = kPairs * kPairKeys;
  static constexpr int kQueryRing = 3, kGradRing = 2;  // tiles of q and of dy
  static constexpr int kTile = kQueries * kWidth;
  static constexpr int64_t kShared = 2 * shared_bytes<Bf16>(kKeys * kWidth) +
                                     shared_bytes<Bf16>((kQueryRing + kGradRing) * kTile) +
                                     shared_bytes<uint32_t>(kKeys * kQueries / 2) + shared_bytes<float>(4 * kQueries);
};

// The tiles of queries of one block, one query head of the group after another.
class QuerySteps {
 public:
  SKP_DEVICE QuerySteps(int first_tile, int tiles, int first_head)
      : head(first_head), tile(first_tile), first_tile_(first_tile), tiles_(tiles) {}
  SKP_DEVICE void next() {
    if (++tile < tiles_) return;
    tile = first_tile_;
    ++head;
  }
  int head, tile;

 private:
  int first_tile_, tiles_;
};

template <typename Layout>
SKP_KERNEL(Layout::kThreads, Layout::kBlocksAtOnce)
key_gradients(Heads<Bf16> dk, Heads<Bf16> dv, Heads<const Bf16> dy, Heads<const Bf16> q, Heads<const Bf16> k,
              Heads<const Bf16> v, Global<const float> lse, Global<const float> delta, AttentionExtents at,
              int64_t items, float scale) {
  constexpr int kWidth = Layout::kWidth, kRowTiles = Layout::kRowTiles, kPairs = Layout::kPairs,
                kQueries = Layout::kQueries, kThreads = Layout::kThreads, kTile = Layout::kTile;
  const int64_t item = block_z() * grid_x() + block_x();
  if (item >= items) return;
  const int64_t b = item / at.kv_heads;
  const int g = static_cast<int>(item % at.kv_heads), group = at.heads / at.kv_heads;
  const bool sums_dv = warp_index() < kPairs;
  const int pair = warp_index() % kPairs;
  const int first_key = block_y() * Layout::kKeys, my_key = first_key + pair * Layout::kPairKeys;

  SharedMemory memory;
  const Shared<Bf16> keys = memory.take<Bf16>(Layout::kKeys * kWidth),
                     values = memory.take<Bf16>(Layout::kKeys * kWidth);
  const Shared<Bf16> query_ring = memory.take<Bf16>(Layout::kQueryRing * kTile),
                     grad_ring = memory.take<Bf16>(Layout::kGradRing * kTile);
  const Shared<uint32_t> exchange = memory.take<uint32_t>(Layout::kKeys * kQueries / 2) +
                                    (pair * Layout::kPairKeys * kQueries / 2 + lane_index() * 4);
  const Shared<float> row_stats = memory.take<float>(4 * kQueries) + (sums_dv ? 0 : 2 * kQueries);
  const Shared<Bf16> mine = (sums_dv ? keys : values) + pair * Layout::kPairKeys * kWidth;

  // lse (times log2 e) is for those that sum dv, delta for the others.
  const int stat_row = thread_index() % (kThreads / 2);
  const Global<const float> stat_source = (sums_dv ? lse : delta) + b * at.heads * at.tokens;
  const auto stat_of = [&](const QuerySteps& step) {
    const int query = step.tile * kQueries + stat_row;
    if (stat_row >= kQueries || query >= at.tokens) return sums_dv ? kInfinity : 0.0f;
    return stat_source.load(static_cast<int64_t>(step.head) * at.tokens + query) * (sums_dv ? kLog2E : 1.0f);
  };

  const int tiles = (at.tokens + kQueries - 1) / kQueries, first_tile = first_key / kQueries;
  const int steps = (tiles - first_tile) * group;
  QuerySteps current(first_tile, tiles, g * group), loading = current;
  int query_slot = 0, query_load_slot = 0;
  const auto load_step = [&](int step) {
    load_tile<kQueries, kWidth, kThreads>(query_ring + query_load_slot * kTile, q.head(b, loading.head),
                                          loading.tile * kQueries, at);
    load_tile<kQueries, kWidth, kThreads>(grad_ring + step % 2 * kTile, dy.head(b, loading.head),
                                          loading.tile * kQueries, at);
    query_load_slot = query_load_slot == 2 ? 0 : query_load_slot + 1;
  };

  load_tile<Layout::kKeys, kWidth, kThreads>(keys, k.head(b, g), first_key, at);
  load_tile<Layout::kKeys, kWidth, kThreads>(values, v.head(b, g), first_key, at);
  load_step(0);
  copy_async_commit();
  if (stat_row < kQueries) row_stats.store(stat_row, stat_of(loading));

  float sums[kRowTiles][kWidth / 8][4];
  uint32_t packed[kQueries / 16][kRowTiles][4];
  set_zero(sums);
  Shared<Bf16> previous_queries = query_ring;
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<0>();
    block_sync();
    float next_stat = 0;
    if (step + 1 < steps) {
      loading.next();
      load_step(step + 1);
      next_stat = stat_of(loading);
    }
    copy_async_commit();
    const Shared<Bf16> query_tile = query_ring + query_slot * kTile, grad_tile = grad_ring + step % 2 * kTile;
    const Shared<float> stats = row_stats + step % 2 * kQueries;
    if (!sums_dv && step > 0) add_product<kWidth>(sums, packed, previous_queries);
    float scores[kRowTiles][kQueries / 8][4];
    multiply_rows<kWidth>(scores, mine, sums_dv ? query_tile : grad_tile);
    if (sums_dv) {
      const int query = current.tile * kQueries;
      if (my_key + Layout::kPairKeys - 1 > query) mask<Rows::kKeys>(scores, query, my_key);
      SKP_UNROLL
      for (int n = 0; n < kQueries / 8; ++n) {
        const auto l = stats.load_vec<2>(8 * n + 2 * (lane_index() % 4));
        SKP_UNROLL
        for (int m = 0; m < kRowTiles; ++m) SKP_UNROLL
        for (int e = 0; e < 4; ++e) scores[m][n][e] = fast_exp2(scores[m][n][e] * (scale * kLog2E) - l.values[e % 2]);
      }
      pack_scores(packed, scores);
      SKP_UNROLL
      for (int s = 0; s < kQueries / 16; ++s) SKP_UNROLL
      for (int m = 0; m < kRowTiles; ++m)
        exchange.store_vec((s * kRowTiles + m) * 4 * kWarp,
                           Vec<uint32_t, 4>{{packed[s][m][0], packed[s][m][1], packed[s][m][2], packed[s][m][3]}});
    }
    barrier_sync(1 + pair, 2 * kWarp);
    if (sums_dv) {
      add_product<kWidth>(sums, packed, grad_tile);
    } else {
      SKP_UNROLL
      for (int s = 0; s < kQueries / 16; ++s) {
        Vec<float, 2> d[2];
        SKP_UNROLL
        for (int i = 0; i < 2; ++i) d[i] = stats.load_vec<2>(16 * s + 8 * i + 2 * (lane_index() % 4));
        SKP_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          const auto p = exchange.load_vec<4>((s * kRowTiles + m) * 4 * kWarp);
          SKP_UNROLL
          for (int e = 0; e < 4; ++e) {
            const float(&dp)[4] = scores[m][2 * s + e / 2];
            packed[s][m][e] = pack_bf16(low_bf16(p.values[e]) * (dp[e % 2 * 2] - d[e / 2].values[0]),
                                        high_bf16(p.values[e]) * (dp[e % 2 * 2 + 1] - d[e / 2].values[1]));
          }
        }
      }
    }
    if (stat_row < kQueries) row_stats.store((step + 1) % 2 * kQueries + stat_row, next_stat);
    previous_queries = query_tile;
    query_slot = query_slot == 2 ? 0 : query_slot + 1;
    current.next();
  }
  if (!sums_dv) add_product<kWidth>(sums, packed, previous_queries);
  store_rows<kWidth>((sums_dv ? dv : dk).head(b, g), my_key, at, mine, sums,
                     [&](int, int) { return sums_dv ? 1.0f : scale; });
}

// ---------------------------------------------------------------------------------------------------- dq

// A block takes 16 * kRowTiles * kWarps queries of one head against the keys up to the diagonal, kKeys at a time.
template <int kWidthIs, int kRowTilesIs, int kWarpsIs, int kKeysIs>
struct QueryBlocks {
  static constexpr int kWidth = kWidthIs, kRowTiles = kRowTilesIs, kWarps = kWarpsIs, kKeys = kKeysIs;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlocksAtOnce = kWidth == 64 ? 3 : kWarps == 4 ? 2 : 1;
  static constexpr int kWarpRows = 16 * kRowTiles, kQueries = kWarps * kWarpRows;
  static constexpr int kTile = kKeys * kWidth;
  static constexpr int64_t kShared = 2 * shared_bytes<Bf16>(kQueries * kWidth) + shared_bytes<Bf16>(3 * kTile);
};

template <typename Layout>
SKP_KERNEL(Layout::kThreads, Layout::kBlocksAtOnce)
query_gradients(Heads<Bf16> dq, Heads<const Bf16> dy, Heads<const Bf16> q, Heads<const Bf16> k, Heads<const Bf16> v,
                Global<const float> lse, Global<const float> delta, AttentionExtents at, int64_t items, int blocks,
                float scale) {
  constexpr int kWidth = Layout::kWidth, kRowTiles = Layout::kRowTiles, kKeys = Layout::kKeys,
                kQueries = Layout::kQueries, kThreads = Layout::kThreads, kTile = Layout::kTile;
  const int64_t item = block_z() * grid_x() + block_x();
  if (item >= items) return;
  const int64_t b = item / at.heads, h = item % at.heads, g = h / (at.heads / at.kv_heads);
  // Those with most keys first.
  const int first_query = (blocks - 1 - block_y()) * kQueries, warp_row = warp_index() * Layout::kWarpRows;
  const int my_query = first_query + warp_row;
  const int tiles = (std::min(first_query + kQueries, at.tokens) + kKeys - 1) / kKeys;

  SharedMemory memory;
  const Shared<Bf16> queries = memory.take<Bf16>(kQueries * kWidth), grads = memory.take<Bf16>(kQueries * kWidth);
  const Shared<Bf16> key_tiles = memory.take<Bf16>(3 * kTile), value_tile = key_tiles + 2 * kTile;
  const Shared<Bf16> my_queries = queries + warp_row * kWidth, my_grads = grads + warp_row * kWidth;
  const HeadRows<const Bf16> k_rows = k.head(b, g), v_rows = v.head(b, g);

  load_tile<kQueries, kWidth, kThreads>(queries, q.head(b, h), first_query, at);
  load_tile<kQueries, kWidth, kThreads>(grads, dy.head(b, h), first_query, at);
  load_tile<kKeys, kWidth, kThreads>(key_tiles, k_rows, 0, at);
  load_tile<kKeys, kWidth, kThreads>(value_tile, v_rows, 0, at);
  copy_async_commit();
  float row_lse[kRowTiles][2], row_delta[kRowTiles][2];
  SKP_UNROLL
  for (int m = 0; m < kRowTiles; ++m) SKP_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int query = my_query + 16 * m + 8 * half + lane_index() / 4;
    const bool valid = query < at.tokens;
    row_lse[m][half] = valid ? lse.load(item * at.tokens + query) * kLog2E : kInfinity;
    row_delta[m][half] = valid ? delta.load(item * at.tokens + query) : 0.0f;
  }

  float sums[kRowTiles][kWidth / 8][4];
  set_zero(sums);
  for (int tile = 0; tile < tiles; ++tile) {
    const Shared<Bf16> key_tile = key_tiles + tile % 2 * kTile;
    copy_async_wait<0>();
    block_sync();
    if (tile + 1 < tiles)
      load_tile<kKeys, kWidth, kThreads>(key_tiles + (tile + 1) % 2 * kTile, k_rows, (tile + 1) * kKeys, at);
    uint32_t packed[kKeys / 16][kRowTiles][4];
    {
      float scores[kRowTiles][kKeys / 8][4];
      multiply_rows<kWidth>(scores, my_queries, key_tile);
      if ((tile + 1) * kKeys - 1 > my_query) mask<Rows::kQueries>(scores, my_query, tile * kKeys);
      SKP_UNROLL
      for (int m = 0; m < kRowTiles; ++m) SKP_UNROLL
      for (int n = 0; n < kKeys / 8; ++n) SKP_UNROLL
      for (int e = 0; e < 4; ++e) scores[m][n][e] = fast_exp2(scores[m][n][e] * (scale * kLog2E) - row_lse[m][e / 2]);
      pack_scores(packed, scores);
    }
    constexpr int kPart = kKeys / 2;
    SKP_UNROLL
    for (int part = 0; part < 2; ++part) {
      float dp[kRowTiles][kPart / 8][4];
      multiply_rows<kWidth>(dp, my_grads, value_tile + part * kPart * kWidth);
      SKP_UNROLL
      for (int s = 0; s < kPart / 16; ++s) SKP_UNROLL
      for (int m = 0; m < kRowTiles; ++m) SKP_UNROLL
      for (int e = 0; e < 4; ++e) {
        uint32_t& p = packed[part * (kPart / 16) + s][m][e];
        const float d = row_delta[m][e % 2];
        p = pack_bf16(low_bf16(p) * (dp[m][2 * s + e / 2][e % 2 * 2] - d),
                      high_bf16(p) * (dp[m][2 * s + e / 2][e % 2 * 2 + 1] - d));
      }
    }
    block_sync();
    if (tile + 1 < tiles) load_tile<kKeys, kWidth, kThreads>(value_tile, v_rows, (tile + 1) * kKeys, at);
    copy_async_commit();
    add_product<kWidth>(sums, packed, key_tile);
  }
  store_rows<kWidth>(dq.head(b, h), my_query, at, my_queries, sums, [&](int, int) { return scale; });
}

}  // namespace

void attention_backward_bf16(Context& ctx, const cuda::DeviceLimits& limits, Tensor dq, Tensor dk, Tensor dv,
                             ConstTensor dy, ConstTensor q, ConstTensor k, ConstTensor v, ConstTensor y,
                             ConstTensor lse, float scale) {
  const AttentionExtents at = extents_of(q, k, {dq, dk, dv, dy, q, k, v});
  const auto delta = workspace<float>(ctx, 0, lse.elements());
  attention_delta(ctx, delta, dy, y);
  const auto sum_keys = [&](auto layout) {
    using Layout = decltype(layout);
    const int64_t items = k.dim(0) * at.kv_heads;
    const Grid grid = head_grid(limits, k, at.kv_heads, static_cast<int>(divide_up(at.tokens, Layout::kKeys)));
    launch(Launch(ctx, "attention_backward", grid, Layout::kThreads, Layout::kShared), key_gradients<Layout>,
           heads_of(dk), heads_of(dv), heads_of(dy), heads_of(q), heads_of(k), heads_of(v), global<float>(lse), delta,
           at, items, scale);
  };
  const auto sum_queries = [&](auto layout) {
    using Layout = decltype(layout);
    const int64_t items = q.dim(0) * at.heads;
    const int blocks = static_cast<int>(divide_up(at.tokens, Layout::kQueries));
    launch(Launch(ctx, "attention_backward", head_grid(limits, k, at.heads, blocks), Layout::kThreads, Layout::kShared),
           query_gradients<Layout>, heads_of(dq), heads_of(dy), heads_of(q), heads_of(k), heads_of(v),
           global<float>(lse), delta, at, items, blocks, scale);
  };
  // The second of two layouts is for devices with little shared memory.
  const auto choose = [&](const auto& run, auto large, auto small) {
    if (decltype(large)::kShared <= limits.shared_bytes_per_block)
      run(large);
    else
      run(small);
  };
  if (at.head_dim <= 64) {
    sum_keys(KeyBlocks<64, 2, 2, 64>());
    sum_queries(QueryBlocks<64, 2, 4, 64>());
  } else if (at.head_dim <= 128) {
    choose(sum_keys, KeyBlocks<128, 2, 4, 64>(), KeyBlocks<128, 2, 2, 32>());
    choose(sum_queries, QueryBlocks<128, 2, 4, 64>(), QueryBlocks<128, 2, 2, 64>());
  } else {
    sum_keys(KeyBlocks<256, 1, 2, 16>());
    sum_queries(QueryBlocks<256, 1, 2, 32>());
  }
}

}  // namespace skippipe::SKP_GPU
