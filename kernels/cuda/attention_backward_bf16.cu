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

// Of barrier_sync.
constexpr int kAllBarrier = 1, kPairBarriers = 2;

// ---------------------------------------------------------------------------------------------------- dk, dv

// A block takes kPairs times 16 * kRowTiles keys against all queries that see them, kQueries at a time. Two warps share
// a pair's keys: the first computes p^T and sums dv, the second dp^T, ds^T and dk. So each has the registers for whole
// rows of its sum and does two of the four products; what passes between them is p, in bf16. The second adds a tile to
// dk only at the start of the next step, so that there are products under way while the first takes exponentials.
template <int kWidthIs, int kRowTilesIs, int kPairsIs, int kQueriesIs>
struct KeyBlocks {
  static constexpr int kWidth = kWidthIs, kRowTiles = kRowTilesIs, kPairs = kPairsIs, kQueries = kQueriesIs;
  static constexpr int kThreads = 2 * kPairs * kWarp;
  static constexpr int kBlocksAtOnce = kPairs == 4 ? 1 : 2;
  static constexpr int kPairKeys = 16 * kRowTiles, kKeys = kPairs * kPairKeys;
  static constexpr int kTile = kQueries * kWidth;
  // Tiles of q and of dy in shared memory; q is needed for a step longer.
  static constexpr int kQueryRing = 3, kGradRing = 2;
  static constexpr int kExchange = kPairKeys * kQueries / 2;  // words, per pair
  static constexpr int64_t kShared = 2 * shared_bytes<Bf16>(kKeys * kWidth) +
                                     shared_bytes<Bf16>((kQueryRing + kGradRing) * kTile) +
                                     shared_bytes<uint32_t>(kPairs * kExchange) + shared_bytes<float>(4 * kQueries);
  static_assert(2 * kQueries <= kThreads / 2, "one warp of each pair brings lse and delta, an element per thread");
};

// The tiles of queries of one block, one query head of the group after another.
class QuerySteps {
 public:
  SKP_DEVICE QuerySteps(int head, int first_tile, int tiles)
      : head_(head), tile_(first_tile), first_tile_(first_tile), tiles_(tiles) {}
  SKP_DEVICE int head() const { return head_; }
  SKP_DEVICE int tile() const { return tile_; }
  SKP_DEVICE void next() {
    if (++tile_ < tiles_) return;
    tile_ = first_tile_;
    ++head_;
  }

 private:
  int head_, tile_, first_tile_, tiles_;
};

// Where a warp leaves p for the other of its pair: 16 bytes of each lane per 16 x 16 elements.
template <int kRowTiles, int kSteps>
SKP_DEVICE void send(Shared<uint32_t> exchange, const uint32_t (&p)[kSteps][kRowTiles][4]) {
  SKP_UNROLL
  for (int i = 0; i < kSteps * kRowTiles; ++i) {
    const uint32_t(&x)[4] = p[i / kRowTiles][i % kRowTiles];
    exchange.store_vec((i * kWarp + lane_index()) * 4, Vec<uint32_t, 4>{{x[0], x[1], x[2], x[3]}});
  }
}

// ds^T = p^T (dp^T - delta), p^T as it was sent.
template <int kRowTiles, int kColumnTiles>
SKP_DEVICE void score_gradients(uint32_t (&ds)[kColumnTiles / 2][kRowTiles][4],
                                const float (&dp)[kRowTiles][kColumnTiles][4], Shared<uint32_t> exchange,
                                Shared<float> delta) {
  SKP_UNROLL
  for (int step = 0; step < kColumnTiles / 2; ++step) {
    Vec<float, 2> d[2];
    SKP_UNROLL
    for (int i = 0; i < 2; ++i) d[i] = delta.load_vec<2>(16 * step + 8 * i + 2 * (lane_index() % 4));
    SKP_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      const auto p = exchange.load_vec<4>(((step * kRowTiles + m) * kWarp + lane_index()) * 4);
      SKP_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float* x = &dp[m][2 * step + i / 2][i % 2 * 2];
        ds[step][m][i] = pack_bf16(low_bf16(p.values[i]) * (x[0] - d[i / 2].values[0]),
                                   high_bf16(p.values[i]) * (x[1] - d[i / 2].values[1]));
      }
    }
  }
}

// Grid: head_grid over key/value heads. factor: scale * log2(e).
template <typename Layout>
SKP_KERNEL(Layout::kThreads, Layout::kBlocksAtOnce)
key_gradients(Heads<Bf16> dk, Heads<Bf16> dv, Heads<const Bf16> dy, Heads<const Bf16> q, Heads<const Bf16> k,
              Heads<const Bf16> v, Global<const float> lse, Global<const float> delta, AttentionExtents at, int items,
              float scale, float factor) {
  constexpr int kWidth = Layout::kWidth, kRowTiles = Layout::kRowTiles, kPairs = Layout::kPairs,
                kQueries = Layout::kQueries, kThreads = Layout::kThreads, kTile = Layout::kTile;
  const int item = static_cast<int>(block_z() * grid_x() + block_x());
  if (item >= items) return;
  const int b = at.kv_heads.quotient(item), g = item - b * at.kv_heads.value();
  const int group = at.group.value();
  const int pair = warp_index() % kPairs;
  const int first_key = block_y() * Layout::kKeys, pair_row = pair * Layout::kPairKeys, my_key = first_key + pair_row;

  SharedMemory memory;
  const Shared<Bf16> keys = memory.take<Bf16>(Layout::kKeys * kWidth);
  const Shared<Bf16> values = memory.take<Bf16>(Layout::kKeys * kWidth);
  const Shared<Bf16> query_ring = memory.take<Bf16>(Layout::kQueryRing * kTile);
  const Shared<Bf16> grad_ring = memory.take<Bf16>(Layout::kGradRing * kTile);
  const Shared<uint32_t> exchange = memory.take<uint32_t>(kPairs * Layout::kExchange) + pair * Layout::kExchange;
  const Shared<float> row_stats = memory.take<float>(4 * kQueries);

  const int tiles = (at.tokens + kQueries - 1) / kQueries, first_tile = first_key / kQueries;
  const int steps = (tiles - first_tile) * group;
  using Loader = TileLoader<kQueries, kWidth, kThreads / 2, kThreads / 2>;
  const auto load_step = [&](const QuerySteps& step, int query_slot, int grad_slot) {
    const int first = step.tile() * kQueries;
    Loader(q.head(b, step.head()), at).load(query_ring + query_slot * kTile, first);
    Loader(dy.head(b, step.head()), at).load(grad_ring + grad_slot * kTile, first);
    copy_async_commit();
  };
  // A thread's element of row_stats.
  const int stat = thread_index() - kThreads / 2;
  const auto load_stat = [&](const QuerySteps& step) {
    const int query = step.tile() * kQueries + stat % kQueries;
    if (stat >= 2 * kQueries || query >= at.tokens) return stat < kQueries ? kInfinity : 0.0f;
    return (stat < kQueries ? lse : delta)
        .load(static_cast<int64_t>(b * at.heads.value() + step.head()) * at.tokens + query);
  };
  const auto store_stat = [&](int slot, float value) {
    if (stat < 2 * kQueries) row_stats.store(slot * 2 * kQueries + stat, stat < kQueries ? value * kLog2E : value);
  };

  // The work of the first (sums dv) or second warp of a pair. The second, which has less of it, also loads.
  const auto run = [&](auto sums_dv) {
    const Shared<Bf16> mine = sums_dv() ? keys : values;
    QuerySteps current(g * group, first_tile, tiles);
    float sums[kRowTiles][kWidth / 8][4];
    uint32_t packed[kQueries / 16][kRowTiles][4];  // p^T, or ds^T of the step before
    set_zero(sums);
    if constexpr (!sums_dv()) {
      load_step(current, 0, 0);
      store_stat(0, load_stat(current));
    }
    int query_slot = 0, query_slot_before = 0;
    for (int step = 0; step < steps; ++step) {
      const int query_slot_after = query_slot == Layout::kQueryRing - 1 ? 0 : query_slot + 1;
      const int query_row = query_slot * kQueries, grad_row = step % 2 * kQueries;  // of the tiles in their rings
      const Shared<float> stats = row_stats + step % 2 * 2 * kQueries;
      float scores[kRowTiles][kQueries / 8][4];
      copy_async_wait<0>();
      barrier_sync(kAllBarrier, kThreads);
      if constexpr (sums_dv()) {
        multiply_rows<kWidth>(scores, mine, pair_row, query_ring, query_row);
        const int query = current.tile() * kQueries;
        if (my_key + Layout::kPairKeys - 1 > query) mask<Rows::kKeys>(scores, query, my_key);
        exponentiate(packed, scores, stats, factor);
        send(exchange, packed);
        barrier_sync(kPairBarriers + pair, 2 * kWarp);
        add_product<kWidth>(sums, packed, grad_ring + grad_row * kWidth, 0);
        current.next();
      } else {
        float next_stat = 0;
        if (step + 1 < steps) {
          current.next();
          load_step(current, query_slot_after, (step + 1) % 2);
          next_stat = load_stat(current);
        }
        if (step > 0) add_product<kWidth>(sums, packed, query_ring, query_slot_before * kQueries);
        multiply_rows<kWidth>(scores, mine, pair_row, grad_ring, grad_row);
        barrier_sync(kPairBarriers + pair, 2 * kWarp);
        score_gradients(packed, scores, exchange, stats + kQueries);
        store_stat((step + 1) % 2, next_stat);
      }
      query_slot_before = query_slot;
      query_slot = query_slot_after;
    }
    if constexpr (!sums_dv()) add_product<kWidth>(sums, packed, query_ring, query_slot_before * kQueries);
    store_rows<kWidth>((sums_dv() ? dv : dk).head(b, g), my_key, at, mine + pair_row * kWidth, sums,
                       [&](int, int) { return sums_dv() ? 1.0f : scale; });
  };

  TileLoader<Layout::kKeys, kWidth, kThreads>(k.head(b, g), at).load(keys, first_key);
  TileLoader<Layout::kKeys, kWidth, kThreads>(v.head(b, g), at).load(values, first_key);
  copy_async_commit();
  if (warp_index() < kPairs)
    run(std::true_type());
  else
    run(std::false_type());
}

// ---------------------------------------------------------------------------------------------------- dq

// A block takes kWarps times 16 * kRowTiles queries of one head against the keys up to the diagonal, kKeys at a time.
template <int kWidthIs, int kRowTilesIs, int kWarpsIs, int kKeysIs>
struct QueryBlocks {
  static constexpr int kWidth = kWidthIs, kRowTiles = kRowTilesIs, kWarps = kWarpsIs, kKeys = kKeysIs;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr int kWarpRows = 16 * kRowTiles, kQueries = kWarps * kWarpRows;
  static constexpr int kTile = kKeys * kWidth;
  static constexpr int64_t kShared =
      2 * shared_bytes<Bf16>(kQueries * kWidth) + shared_bytes<Bf16>(3 * kTile) + 2 * shared_bytes<float>(kQueries);
};

// Grid: head_grid over query heads. factor: scale * log2(e).
template <typename Layout>
SKP_KERNEL(Layout::kThreads, Layout::kBlocksAtOnce)
query_gradients(Heads<Bf16> dq, Heads<const Bf16> dy, Heads<const Bf16> q, Heads<const Bf16> k, Heads<const Bf16> v,
                Global<const float> lse, Global<const float> delta, AttentionExtents at, int items, int blocks,
                float scale, float factor) {
  constexpr int kWidth = Layout::kWidth, kRowTiles = Layout::kRowTiles, kKeys = Layout::kKeys,
                kQueries = Layout::kQueries, kThreads = Layout::kThreads, kTile = Layout::kTile;
  const int item = static_cast<int>(block_z() * grid_x() + block_x());
  if (item >= items) return;
  const int b = at.heads.quotient(item), h = item - b * at.heads.value(), g = at.group.quotient(h);
  // Those with most keys first.
  const int first_query = (blocks - 1 - block_y()) * kQueries, warp_row = warp_index() * Layout::kWarpRows;
  const int my_query = first_query + warp_row;
  const int tiles = (std::min(first_query + kQueries, at.tokens) + kKeys - 1) / kKeys;

  SharedMemory memory;
  const Shared<Bf16> queries = memory.take<Bf16>(kQueries * kWidth), grads = memory.take<Bf16>(kQueries * kWidth);
  // Two tiles of keys, which are needed from a step's begin to its end, and one of values.
  const Shared<Bf16> key_tiles = memory.take<Bf16>(3 * kTile), value_tile = key_tiles + 2 * kTile;
  const Shared<float> row_lse = memory.take<float>(kQueries), row_delta = memory.take<float>(kQueries);
  const TileLoader<kKeys / 2, kWidth, kThreads> k_loader(k.head(b, g), at);
  const TileLoader<kKeys, kWidth, kThreads> v_loader(v.head(b, g), at);

  TileLoader<kQueries, kWidth, kThreads>(q.head(b, h), at).load(queries, first_query);
  TileLoader<kQueries, kWidth, kThreads>(dy.head(b, h), at).load(grads, first_query);
  k_loader.load(key_tiles, 0);
  k_loader.load(key_tiles + kTile / 2, kKeys / 2);
  copy_async_commit();
  // Read again for each tile, which leaves more registers for products.
  for (int row = thread_index(); row < kQueries; row += kThreads) {
    const bool valid = first_query + row < at.tokens;
    const int64_t from = static_cast<int64_t>(item) * at.tokens + first_query + row;
    row_lse.store(row, valid ? lse.load(from) * kLog2E : kInfinity);
    row_delta.store(row, valid ? delta.load(from) : 0.0f);
  }

  float sums[kRowTiles][kWidth / 8][4];
  set_zero(sums);
  const auto add_tile = [&](int tile, auto diagonal) {
    constexpr int kPart = kKeys / 2, kPartSteps = kPart / 16;
    const int key_row = tile % 2 * kKeys;
    uint32_t packed[kKeys / 16][kRowTiles][4];  // p, then ds
    float scores[kRowTiles][kKeys / 8][4], dp[kRowTiles][kPart / 8][4];
    const auto exponentiate = [&] {
      for_each_row<kRowTiles>([&](int m, int half) {
        const float shift = row_lse.load(warp_row + 16 * m + 8 * half + lane_index() / 4);
        SKP_UNROLL
        for (int i = 0; i < kKeys / 4; ++i) {
          float& x = scores[m][i / 2][2 * half + i % 2];
          x = fast_exp2(x * factor - shift);
        }
      });
      SKP_UNROLL
      for (int step = 0; step < kKeys / 16; ++step) pack_step(packed, scores, step);
    };
    const auto make_gradients = [&](int step) {
      for_each_row<kRowTiles>([&](int m, int half) {
        const float d = row_delta.load(warp_row + 16 * m + 8 * half + lane_index() / 4);
        SKP_UNROLL
        for (int i = 0; i < 2; ++i) {
          uint32_t& p = packed[step][m][2 * i + half];
          const float* x = &dp[m][2 * (step % kPartSteps) + i][2 * half];
          p = pack_bf16(low_bf16(p) * (x[0] - d), high_bf16(p) * (x[1] - d));
        }
      });
    };

    const auto load_next_keys = [&](int part) {
      if (tile + 1 < tiles)
        k_loader.load(key_tiles + ((tile + 1) % 2 * kTile + part * kPart * kWidth), (tile + 1) * kKeys + part * kPart);
    };

    copy_async_wait<0>();
    block_sync();
    v_loader.load(value_tile, tile * kKeys);
    copy_async_commit();
    multiply_rows<kWidth>(scores, queries, warp_row, key_tiles + key_row * kWidth, 0);
    if constexpr (diagonal()) mask<Rows::kQueries>(scores, my_query, tile * kKeys);
    exponentiate();
    copy_async_wait<0>();
    block_sync();
    load_next_keys(0);
    multiply_rows<kWidth>(dp, grads, warp_row, value_tile, 0);
    SKP_UNROLL
    for (int step = 0; step < kPartSteps; ++step) make_gradients(step);
    load_next_keys(1);
    copy_async_commit();
    multiply_rows<kWidth>(dp, grads, warp_row, value_tile + kPart * kWidth, 0);
    add_product<kWidth>(sums, packed, key_tiles, key_row, [&](int step) {
      if (step >= kPartSteps) make_gradients(step);
    });
  };
  int tile = 0;
  for (; tile < first_query / kKeys; ++tile) add_tile(tile, std::false_type());
  for (; tile < tiles; ++tile) add_tile(tile, std::true_type());
  store_rows<kWidth>(dq.head(b, h), my_query, at, queries + warp_row * kWidth, sums, [&](int, int) { return scale; });
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
    const int items = static_cast<int>(k.dim(0)) * at.kv_heads.value();
    const Grid grid = head_grid(limits, k, at.kv_heads.value(), static_cast<int>(divide_up(at.tokens, Layout::kKeys)));
    launch(Launch(ctx, "attention_backward", grid, Layout::kThreads, Layout::kShared), key_gradients<Layout>,
           heads_of(dk), heads_of(dv), heads_of(dy), heads_of(q), heads_of(k), heads_of(v), global<float>(lse), delta,
           at, items, scale, scale * kLog2E);
  };
  const auto sum_queries = [&](auto layout) {
    using Layout = decltype(layout);
    const int items = static_cast<int>(q.dim(0)) * at.heads.value();
    const int blocks = static_cast<int>(divide_up(at.tokens, Layout::kQueries));
    launch(Launch(ctx, "attention_backward", head_grid(limits, k, at.heads.value(), blocks), Layout::kThreads,
                  Layout::kShared),
           query_gradients<Layout>, heads_of(dq), heads_of(dy), heads_of(q), heads_of(k), heads_of(v),
           global<float>(lse), delta, at, items, blocks, scale, scale * kLog2E);
  };
  // The second of two layouts is for devices with little shared memory.
  const auto choose = [&](const auto& run, auto large, auto small) {
    if (decltype(large)::kShared <= limits.shared_bytes_per_block)
      run(large);
    else
      run(small);
  };
  if (at.head_dim <= 64) {
    sum_keys(KeyBlocks<64, 4, 2, 32>());
    sum_queries(QueryBlocks<64, 2, 4, 64>());
  } else if (at.head_dim <= 128) {
    choose(sum_keys, KeyBlocks<128, 2, 4, 64>(), KeyBlocks<128, 2, 2, 32>());
    choose(sum_queries, QueryBlocks<128, 2, 4, 64>(), QueryBlocks<128, 1, 4, 64>());
  } else {
    sum_keys(KeyBlocks<256, 1, 2, 16>());
    sum_queries(QueryBlocks<256, 1, 2, 32>());
  }
}

}  // namespace skippipe::SKP_GPU
