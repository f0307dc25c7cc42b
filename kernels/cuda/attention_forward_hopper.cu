// Attention forward on Hopper. A block takes 128 queries of a head, then other such blocks: one warpgroup brings
// queries, keys and values by bulk copies, two multiply for 64 queries each. While a warpgroup's second product of one
// tile runs, it takes exponentials of the next; and the two take turns at beginning products, so that one's
// exponentials lie beside the other's products (Shah et al. 2024, arXiv:2407.08608, sections 3.1 and 3.2).
#include <algorithm>

#include "kernels/cuda/attention_hopper.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_softmax.h"

namespace skippipe::SKP_GPU {
namespace {

// Of barrier_sync: whose turn it is to begin products, and a warpgroup's own.
constexpr int kTurnBarriers = 1;

template <int kWidthIs>
struct Layout {
  static constexpr int kWidth = kWidthIs, kConsumers = 2, kKeys = 128;
  static constexpr int kQueries = kConsumers * kWarpgroupRows;
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
  static constexpr int kConsumerWarps = kConsumers * kWarpgroupWarps;
  // Keys and values of one tile each, as they are used.
  using Ring = TileRing<kKeys, kWidth, 4, kConsumerWarps>;
  // The block's queries, as a ring of one.
  using Queries = TileRing<kQueries, kWidth, 1, kConsumerWarps>;
  static constexpr int64_t kShared =
      Queries::kShared + Ring::kShared + shared_bytes<Bf16>(kQueries * kWidth) + shared_bytes<uint64_t>(kBarrierWords);
  static_assert(Ring::kBarriers + Queries::kBarriers <= kBarrierWords);
  static_assert(kQueries == kKeys, "the last tile of a block is its diagonal, and has a key for each query");
};

struct Maps {
  TensorMap q, k, v;
};

// factor: scale * log2(e).
template <typename Layout>
SKP_KERNEL(Layout::kThreads, 1)
attend_hopper(const SKP_GRID_CONSTANT Maps maps, Heads<Bf16> y, Global<float> lse, AttentionExtents at,
              HeadBlocks blocks, float factor) {
  if constexpr (kCompilesForHopper) {
    constexpr int kWidth = Layout::kWidth, kQueries = Layout::kQueries, kKeys = Layout::kKeys;
    SharedMemory memory;
    const MemoryBarriers barriers(memory.take<uint64_t>(kBarrierWords));
    const typename Layout::Queries queries(memory, barriers, 0);
    const typename Layout::Ring ring(memory, barriers, Layout::Queries::kBarriers);
    const Shared<Bf16> staging = memory.take<Bf16>(kQueries * kWidth);
    if (thread_index() == 0) {
      queries.init();
      ring.init();
      barriers.publish();
    }
    block_sync();
    typename Layout::Queries::Position query_turn;
    typename Layout::Ring::Position turn;

    if (warp_index() < kWarpgroupWarps) {
      give_registers<24>();
      if (thread_index() != 0) return;
      blocks.for_each([&](int head, int block) {
        const int b = at.heads.quotient(head), h = head - b * at.heads.value(), g = at.group.quotient(h);
        const auto load = [&](const TensorMap& from, int tile) {
          ring.load(turn, from, b, g, tile * kKeys);
          turn.next();
        };
        load(maps.k, block);
        queries.load(query_turn, maps.q, b, h, block * kQueries);
        query_turn.next();
        for (int tile = block; tile > 0; --tile) {
          load(maps.k, tile - 1);
          load(maps.v, tile);
        }
        load(maps.v, 0);
      });
      return;
    }

    take_registers<240>();
    const int mine = warp_index() / kWarpgroupWarps - 1, row = mine * kWarpgroupRows;
    const int warp_row = row + warp_index() % kWarpgroupWarps * 16;
    if (mine == 1) barrier_arrive(kTurnBarriers, 2 * kWarpgroup);
    blocks.for_each([&](int head, int block) {
      const int b = at.heads.quotient(head), h = head - b * at.heads.value();
      const int my_query = block * kQueries + warp_row;
      Softmax<1> softmax;
      float out[1][kWidth / 8][4], scores[1][kKeys / 8][4], shrink[2];
      uint32_t probabilities[kKeys / 16][1][4];
      set_zero(out);
      set_zero(scores);
      const auto begin_scores = [&](const auto& key_turn) {
        begin_rows_product<kWidth, kQueries>(scores, queries.tile(query_turn), row, ring.tile(key_turn));
        warpgroup_commit();
      };
      const auto begin_out = [&](const auto& value_turn) {
        begin_add_product(out, probabilities, ring.tile(value_turn));
        warpgroup_commit();
      };
      const auto exponentiate = [&] {
        const bool raised = softmax.raise_tops(scores, factor, [&](int, int half, float by) { shrink[half] = by; });
        SKP_UNROLL
        for (int step = 0; step < kKeys / 16; ++step) softmax.exponentiate(scores, step, factor);
        return raised;
      };
      const auto pack = [&] {
        SKP_UNROLL
        for (int step = 0; step < kKeys / 16; ++step) pack_step(probabilities, scores, step);
      };

      queries.wait(query_turn);
      ring.wait(turn);
      warpgroup_fence(scores);
      begin_scores(turn);
      warpgroup_wait<0>(scores);
      ring.release(turn);
      turn.next();
      mask<Rows::kQueries>(scores, my_query, block * kKeys);
      exponentiate();
      pack();
      for (int tile = block; tile > 0; --tile) {
        const auto key_turn = turn;
        turn.next();
        barrier_sync(kTurnBarriers + mine, 2 * kWarpgroup);
        ring.wait(key_turn);
        warpgroup_fence(scores);
        begin_scores(key_turn);
        ring.wait(turn);
        warpgroup_fence(probabilities, out);
        begin_out(turn);
        barrier_arrive(kTurnBarriers + 1 - mine, 2 * kWarpgroup);
        warpgroup_wait<1>(scores);
        ring.release(key_turn);
        const bool raised = exponentiate();
        warpgroup_wait<0>(out, probabilities);
        ring.release(turn);
        turn.next();
        if (raised) for_each_row<1>([&](int m, int half) { scale_row(out, m, half, shrink[half]); });
        pack();
      }
      queries.release(query_turn);
      query_turn.next();
      ring.wait(turn);
      warpgroup_fence(probabilities, out);
      begin_out(turn);
      warpgroup_wait<0>(out, probabilities);
      ring.release(turn);
      turn.next();

      float inverse[2];
      for_each_row<1>([&](int, int half) {
        const float total = softmax.total(0, half);
        const int query = my_query + 8 * half + lane_index() / 4;
        inverse[half] = fast_reciprocal(total);
        if (lane_index() % 4 == 0 && query < at.tokens)
          lse.store(static_cast<int64_t>(head) * at.tokens + query, softmax.top[0][half] / kLog2E + std::log(total));
      });
      store_rows<kWidth>(y.head(b, h), my_query, at, staging + warp_row * kWidth, out,
                         [&](int, int half) { return inverse[half]; });
    });
    // The turn that the other gave last.
    if (mine == 0) barrier_sync(kTurnBarriers, 2 * kWarpgroup);
  }
}

}  // namespace

void attention_forward_hopper(Context& ctx, const cuda::DeviceLimits& limits, Tensor y, Tensor lse, ConstTensor q,
                              ConstTensor k, ConstTensor v, float scale) {
  const AttentionExtents at = extents_of(q, k, {y, q, k, v});
  const auto run = [&](auto layout) {
    using L = decltype(layout);
    const int heads = static_cast<int>(q.dim(0) * q.dim(2));
    const HeadBlocks blocks(head_grid(limits, k, q.dim(2), static_cast<int>(divide_up(at.tokens, L::kQueries))), heads);
    const Maps maps{map_of(q, L::kQueries), map_of(k, L::kKeys), map_of(v, L::kKeys)};
    launch(Launch(ctx, "attention_forward", {std::min<int64_t>(blocks.count(), limits.multiprocessors)}, L::kThreads,
                  L::kShared),
           attend_hopper<L>, maps, heads_of(y), global<float>(lse), at, blocks, scale * kLog2E);
  };
  if (at.head_dim <= 64)
    run(Layout<64>());
  else
    run(Layout<128>());
}

}  // namespace skippipe::SKP_GPU
