// Backward of attention on Hopper: the two kernels of attention_backward_bf16.cu, which recompute the probabilities
// each, so that no sum is shared between blocks and its order is fixed. In both one warpgroup brings what two others
// multiply; a product takes its left operand from the registers in which the one before has left it (Shah et al. 2024,
// arXiv:2407.08608), so that p and ds never lie in memory.
//
// With s = scale q k^T, p = exp(s - lse), dp = dy v^T, ds = p (dp - delta):
//   dv = p^T dy,  dk = scale ds^T q,  dq = scale ds k
#include <algorithm>

#include "kernels/cuda/attention_hopper.h"
#include "kernels/cuda/attention_kernels.h"

namespace skippipe::SKP_GPU {
namespace {

// Of barrier_sync.
constexpr int kConsumerBarrier = 1;

constexpr int kConsumers = 2, kConsumerWarps = kConsumers * kWarpgroupWarps;
constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
// Rows of the tiles that stay and of those that pass by, some on their way.
constexpr int kBlock = kConsumers * kWarpgroupRows, kStep = 64, kSlots = 3;
constexpr int kSteps16 = kStep / 16;
// Of the warpgroup that brings, and of those that multiply.
constexpr int kFewRegisters = 24, kManyRegisters = 240;

template <int kWidth>
using Resident = TileRing<kBlock, kWidth, 1, kConsumerWarps>;
template <int kWidth>
using Passing = TileRing<kStep, kWidth, kSlots, kConsumerWarps>;

struct Maps {
  TensorMap dy, q, k, v;
};

SKP_DEVICE int consumer_row() { return (warp_index() / kWarpgroupWarps - 1) * kWarpgroupRows; }
SKP_DEVICE int consumer_warp_row() { return consumer_row() + warp_index() % kWarpgroupWarps * 16; }

// ---------------------------------------------------------------------------------------------------- dk, dv

// lse (times log2(e)) and delta of the queries of a tile, in a ring that a warp fills.
class QueryStats {
 public:
  static constexpr int kBarriers = 2 * kSlots, kFloats = kSlots * 2 * kStep;
  using Position = RingPosition<kSlots>;

  SKP_DEVICE QueryStats(SharedMemory& memory, const MemoryBarriers& barriers, int first_barrier)
      : values_(memory.take<float>(kFloats)), barriers_(barriers), first_(first_barrier) {}

  SKP_DEVICE void init() const {
    for (int slot = 0; slot < kSlots; ++slot) {
      barriers_.init(first_ + slot, kWarp);
      barriers_.init(first_ + kSlots + slot, kConsumerWarps);
    }
  }
  // By all lanes of a warp: rows [first, first + kStep) of a head's, which begins at `head`.
  SKP_DEVICE void load(const Position& at, Global<const float> lse, Global<const float> delta, int64_t head, int first,
                       int tokens) const {
    barriers_.wait(first_ + kSlots + at.slot, at.parity ^ 1);
    SKP_UNROLL
    for (int i = 0; i < kStep; i += kWarp) {
      const int row = i + lane_index();
      const bool valid = first + row < tokens;
      lse_of(at).store(row, valid ? lse.load(head + first + row) * kLog2E : kInfinity);
      delta_of(at).store(row, valid ? delta.load(head + first + row) : 0.0f);
    }
    barriers_.arrive(first_ + at.slot);
  }
  SKP_DEVICE void wait(const Position& at) const { barriers_.wait(first_ + at.slot, at.parity); }
  SKP_DEVICE void release(const Position& at) const {
    warp_sync();
    if (lane_index() == 0) barriers_.arrive(first_ + kSlots + at.slot);
  }
  SKP_DEVICE Shared<float> lse_of(const Position& at) const { return values_ + at.slot * 2 * kStep; }
  SKP_DEVICE Shared<float> delta_of(const Position& at) const { return lse_of(at) + kStep; }

 private:
  Shared<float> values_;
  MemoryBarriers barriers_;
  int first_;
};

template <int kWidth>
constexpr int64_t kKeyShared = shared_bytes<uint64_t>(kBarrierWords) + 2 * Resident<kWidth>::kShared +
                               2 * Passing<kWidth>::kShared + shared_bytes<float>(QueryStats::kFloats);

// ds^T = p^T (dp^T - delta).
template <int kColumnTiles>
SKP_DEVICE void score_gradients(uint32_t (&ds)[kColumnTiles / 2][1][4], const float (&dp)[1][kColumnTiles][4],
                                const uint32_t (&p)[kColumnTiles / 2][1][4], Shared<float> delta) {
  SKP_UNROLL
  for (int n = 0; n < kColumnTiles; ++n) {
    const auto d = delta.load_vec<2>(8 * n + 2 * (lane_index() % 4));
    for_each_row<1>([&](int, int half) {
      const int i = n % 2 * 2 + half;
      const float* x = &dp[0][n][2 * half];
      ds[n / 2][0][i] =
          pack_bf16(low_bf16(p[n / 2][0][i]) * (x[0] - d.values[0]), high_bf16(p[n / 2][0][i]) * (x[1] - d.values[1]));
    });
  }
}

// A block takes kBlock keys against all queries that see them, kStep at a time. Grid: head_grid over key/value heads.
// factor: scale * log2(e).
template <int kWidth>
SKP_KERNEL(kThreads, 1)
key_gradients_hopper(const SKP_GRID_CONSTANT Maps maps, Heads<Bf16> dk, Heads<Bf16> dv, Global<const float> lse,
                     Global<const float> delta, AttentionExtents at, int items, float scale, float factor) {
  if constexpr (kCompilesForHopper) {
    using Keys = Resident<kWidth>;
    using Queries = Passing<kWidth>;
    const int item = static_cast<int>(block_z() * grid_x() + block_x());
    if (item >= items) return;
    const int b = at.kv_heads.quotient(item), g = item - b * at.kv_heads.value();
    const int group = at.group.value(), first_key = block_y() * kBlock;
    const int first_tile = first_key / kStep, tiles = (at.tokens + kStep - 1) / kStep;

    SharedMemory memory;
    const MemoryBarriers barriers(memory.take<uint64_t>(kBarrierWords));
    const Keys keys(memory, barriers, 0), values(memory, barriers, Keys::kBarriers);
    const Queries queries(memory, barriers, 2 * Keys::kBarriers),
        grads(memory, barriers, 2 * Keys::kBarriers + Queries::kBarriers);
    static_assert(2 * (Keys::kBarriers + Queries::kBarriers) + QueryStats::kBarriers <= kBarrierWords);
    const QueryStats stats(memory, barriers, 2 * (Keys::kBarriers + Queries::kBarriers));
    if (thread_index() == 0) {
      keys.init();
      values.init();
      queries.init();
      grads.init();
      stats.init();
      barriers.publish();
    }
    block_sync();
    const typename Keys::Position once;
    RingPosition<kSlots> turn;
    // body(head, tile, whether it is the first). That stands apart because the compiler keeps a product under way over
    // the begin of a loop only where one is each time.
    const auto for_each_tile = [&](const auto& body) {
      const int steps = group * (tiles - first_tile);
      int h = g * group, tile = first_tile;
      const auto next = [&] {
        turn.next();
        const bool ends = ++tile == tiles;
        tile = ends ? first_tile : tile;
        h += ends ? 1 : 0;
      };
      body(h, tile, std::true_type());
      next();
      for (int step = 1; step < steps; ++step) {
        body(h, tile, std::false_type());
        next();
      }
    };

    if (warp_index() < kWarpgroupWarps) {
      give_registers<kFewRegisters>();
      if (thread_index() == 0) {
        keys.load(once, maps.k, b, g, first_key);
        values.load(once, maps.v, b, g, first_key);
        for_each_tile([&](int h, int tile, auto) {
          queries.load(turn, maps.q, b, h, tile * kStep);
          grads.load(turn, maps.dy, b, h, tile * kStep);
        });
      } else if (warp_index() == 1) {
        for_each_tile([&](int h, int tile, auto) {
          stats.load(turn, lse, delta, static_cast<int64_t>(b * at.heads.value() + h) * at.tokens, tile * kStep,
                     at.tokens);
        });
      }
      return;
    }

    take_registers<kManyRegisters>();
    const int row = consumer_row(), warp_row = consumer_warp_row(), my_key = first_key + warp_row;
    float dv_sums[1][kWidth / 8][4], dk_sums[1][kWidth / 8][4];
    float scores[1][kStep / 8][4], dp[1][kStep / 8][4];
    uint32_t p[kSteps16][1][4], ds[kSteps16][1][4] = {};
    set_zero(dv_sums);
    set_zero(dk_sums);
    set_zero(scores);
    set_zero(dp);
    keys.wait(once);
    values.wait(once);
    auto before = turn;
    for_each_tile([&](int, int tile, auto first) {
      queries.wait(turn);
      warpgroup_fence(scores);
      begin_rows_product<kWidth, kBlock>(scores, keys.tile(once), row, queries.tile(turn));
      warpgroup_commit();
      grads.wait(turn);
      warpgroup_fence(dp);
      begin_rows_product<kWidth, kBlock>(dp, values.tile(once), row, grads.tile(turn));
      warpgroup_commit();
      stats.wait(turn);
      warpgroup_wait<1>(scores, dk_sums, ds);  // the last two: of the tile before
      if constexpr (!first()) queries.release(before);
      if (my_key + 15 > tile * kStep) mask<Rows::kKeys>(scores, tile * kStep, my_key);
      exponentiate(p, scores, stats.lse_of(turn), factor);
      warpgroup_fence(p, dv_sums);
      begin_add_product(dv_sums, p, grads.tile(turn));
      warpgroup_commit();
      warpgroup_wait<1>(dp);
      score_gradients(ds, dp, p, stats.delta_of(turn));
      stats.release(turn);
      warpgroup_fence(ds, dk_sums);
      begin_add_product(dk_sums, ds, queries.tile(turn));
      warpgroup_commit();
      warpgroup_wait<1>(dv_sums, p);
      grads.release(turn);
      before = turn;
    });
    warpgroup_wait<0>(dk_sums, ds);
    barrier_sync(kConsumerBarrier, kConsumers * kWarpgroup);  // nobody needs keys and values any more
    store_rows<kWidth>(dv.head(b, g), my_key, at, values.tile(once) + warp_row * kWidth, dv_sums,
                       [](int, int) { return 1.0f; });
    store_rows<kWidth>(dk.head(b, g), my_key, at, keys.tile(once) + warp_row * kWidth, dk_sums,
                       [&](int, int) { return scale; });
  }
}

// ---------------------------------------------------------------------------------------------------- dq

template <int kWidth>
constexpr int64_t kQueryShared = shared_bytes<uint64_t>(kBarrierWords) + 2 * Resident<kWidth>::kShared +
                                 2 * Passing<kWidth>::kShared + shared_bytes<Bf16>(kBlock* kWidth);

// A block takes kBlock queries of a head against the keys up to the diagonal, kStep at a time; then other such queries.
// factor: scale * log2(e).
template <int kWidth>
SKP_KERNEL(kThreads, 1)
query_gradients_hopper(const SKP_GRID_CONSTANT Maps maps, Heads<Bf16> dq, Global<const float> lse,
                       Global<const float> delta, AttentionExtents at, HeadBlocks blocks, float scale, float factor) {
  if constexpr (kCompilesForHopper) {
    using Queries = Resident<kWidth>;
    using Keys = Passing<kWidth>;
    SharedMemory memory;
    const MemoryBarriers barriers(memory.take<uint64_t>(kBarrierWords));
    const Queries queries(memory, barriers, 0), grads(memory, barriers, Queries::kBarriers);
    const Keys keys(memory, barriers, 2 * Queries::kBarriers),
        values(memory, barriers, 2 * Queries::kBarriers + Keys::kBarriers);
    const Shared<Bf16> staging = memory.take<Bf16>(kBlock * kWidth);
    if (thread_index() == 0) {
      queries.init();
      grads.init();
      keys.init();
      values.init();
      barriers.publish();
    }
    block_sync();
    typename Queries::Position query_turn;
    typename Keys::Position turn;
    // The tiles that a block of queries needs.
    const auto tiles_of = [&](int block) { return (std::min((block + 1) * kBlock, at.tokens) + kStep - 1) / kStep; };

    if (warp_index() < kWarpgroupWarps) {
      give_registers<kFewRegisters>();
      if (thread_index() != 0) return;
      blocks.for_each([&](int head, int block) {
        const int b = at.heads.quotient(head), h = head - b * at.heads.value(), g = at.group.quotient(h);
        queries.load(query_turn, maps.q, b, h, block * kBlock);
        for (int tile = tiles_of(block) - 1; tile >= 0; --tile) {
          keys.load(turn, maps.k, b, g, tile * kStep);
          if (tile == tiles_of(block) - 1) grads.load(query_turn, maps.dy, b, h, block * kBlock);
          values.load(turn, maps.v, b, g, tile * kStep);
          turn.next();
        }
        query_turn.next();
      });
      return;
    }

    take_registers<kManyRegisters>();
    const int row = consumer_row(), warp_row = consumer_warp_row();
    blocks.for_each([&](int head, int block) {
      const int b = at.heads.quotient(head), h = head - b * at.heads.value();
      const int my_query = block * kBlock + warp_row;
      float sums[1][kWidth / 8][4], scores[1][kStep / 8][4], dp[1][kStep / 8][4];
      uint32_t p[kSteps16][1][4], ds[kSteps16][1][4];
      float row_lse[2], row_delta[2];
      for_each_row<1>([&](int, int half) {
        const int query = my_query + 8 * half + lane_index() / 4;
        const bool valid = query < at.tokens;
        const int64_t from = static_cast<int64_t>(head) * at.tokens + query;
        row_lse[half] = valid ? lse.load(from) * kLog2E : kInfinity;
        row_delta[half] = valid ? delta.load(from) : 0.0f;
      });
      set_zero(sums);
      set_zero(scores);
      set_zero(dp);
      auto before = turn;
      const auto begin_sums = [&] {
        begin_add_product(sums, ds, keys.tile(before));
        warpgroup_commit();
      };
      const auto end_sums = [&] {
        warpgroup_wait<0>(sums, ds);
        keys.release(before);
      };
      // The product of ds of a tile runs beside the arithmetic of the next. Its registers are written by nothing but
      // the last rounding, behind its end: the compiler, which sees no use of them after its begin, would else share
      // them.
      const auto add_tile = [&](int tile, auto first) {
        keys.wait(turn);
        values.wait(turn);
        if constexpr (first())
          warpgroup_fence(scores, dp);
        else
          warpgroup_fence(scores, dp, ds, sums);
        begin_rows_product<kWidth, kBlock>(scores, queries.tile(query_turn), row, keys.tile(turn));
        warpgroup_commit();
        begin_rows_product<kWidth, kBlock>(dp, grads.tile(query_turn), row, values.tile(turn));
        warpgroup_commit();
        if constexpr (!first()) begin_sums();
        constexpr int kBehind = first() ? 0 : 1;
        warpgroup_wait<1 + kBehind>(scores);
        if (tile * kStep + kStep - 1 > my_query) mask<Rows::kQueries>(scores, my_query, tile * kStep);
        for_each_row<1>([&](int, int half) {
          SKP_UNROLL
          for (int i = 0; i < kStep / 4; ++i) {
            float& x = scores[0][i / 2][2 * half + i % 2];
            x = fast_exp2(x * factor - row_lse[half]);
          }
        });
        SKP_UNROLL
        for (int step = 0; step < kSteps16; ++step) pack_step(p, scores, step);
        warpgroup_wait<kBehind>(dp);
        values.release(turn);
        for_each_row<1>([&](int, int half) {
          SKP_UNROLL
          for (int i = 0; i < kStep / 8; ++i) {
            const uint32_t x = p[i / 2][0][i % 2 * 2 + half];
            float* d = &dp[0][i][2 * half];
            d[0] = low_bf16(x) * (d[0] - row_delta[half]);
            d[1] = high_bf16(x) * (d[1] - row_delta[half]);
          }
        });
        if constexpr (!first()) end_sums();
        SKP_UNROLL
        for (int step = 0; step < kSteps16; ++step) pack_step(ds, dp, step);
        before = turn;
        turn.next();
      };

      queries.wait(query_turn);
      grads.wait(query_turn);
      const int tiles = tiles_of(block);
      add_tile(tiles - 1, std::true_type());
      for (int tile = tiles - 2; tile >= 0; --tile) add_tile(tile, std::false_type());
      queries.release(query_turn);
      grads.release(query_turn);
      query_turn.next();
      warpgroup_fence(ds, sums);
      begin_sums();
      end_sums();
      store_rows<kWidth>(dq.head(b, h), my_query, at, staging + warp_row * kWidth, sums,
                         [&](int, int) { return scale; });
    });
  }
}

}  // namespace

void attention_backward_hopper(Context& ctx, const cuda::DeviceLimits& limits, Tensor dq, Tensor dk, Tensor dv,
                               ConstTensor dy, ConstTensor q, ConstTensor k, ConstTensor v, ConstTensor y,
                               ConstTensor lse, float scale) {
  const AttentionExtents at = extents_of(q, k, {dq, dk, dv, dy, q, k, v});
  const auto delta = workspace<float>(ctx, 0, lse.elements());
  attention_delta(ctx, delta, dy, y);
  const int blocks = static_cast<int>(divide_up(at.tokens, kBlock));
  const auto run = [&](auto width) {
    constexpr int kWidth = width();
    const Maps key_maps{map_of(dy, kStep), map_of(q, kStep), map_of(k, kBlock), map_of(v, kBlock)};
    launch(Launch(ctx, "attention_backward", head_grid(limits, k, at.kv_heads.value(), blocks), kThreads,
                  kKeyShared<kWidth>),
           key_gradients_hopper<kWidth>, key_maps, heads_of(dk), heads_of(dv), global<float>(lse), delta, at,
           static_cast<int>(k.dim(0)) * at.kv_heads.value(), scale, scale * kLog2E);
    const Maps query_maps{map_of(dy, kBlock), map_of(q, kBlock), map_of(k, kStep), map_of(v, kStep)};
    const HeadBlocks work(head_grid(limits, k, at.heads.value(), blocks), q.dim(0) * q.dim(2));
    launch(Launch(ctx, "attention_backward", {std::min<int64_t>(work.count(), limits.multiprocessors)}, kThreads,
                  kQueryShared<kWidth>),
           query_gradients_hopper<kWidth>, query_maps, heads_of(dq), global<float>(lse), delta, at, work, scale,
           scale * kLog2E);
  };
  if (at.head_dim <= 64)
    run(std::integral_constant<int, 64>());
  else
    run(std::integral_constant<int, 128>());
}

}  // namespace skippipe::SKP_GPU
