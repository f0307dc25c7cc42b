// Each block computes a block of queries of one head, each warp some of its rows, against the keys up to the diagonal.
// Tiles of keys and values take turns in a ring in shared memory, two of them on their way. After Dao 2023,
// arXiv:2307.08691; a row's maximum is left behind while it may be (Zadouri et al. 2026, FlashAttention-4).
#include <algorithm>

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_softmax.h"
#include "kernels/cuda/attention_tiles.h"

namespace skippipe::SKP_GPU {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRing = 3;  // tiles

// kEarlySteps: exponentials of so many times 16 keys are taken before the second product begins, the others beside it,
// which needs more registers.
template <int kWidthIs, int kRowTilesIs, int kKeysIs, int kEarlyStepsIs>
struct QueryBlocks {
  static constexpr int kWidth = kWidthIs, kRowTiles = kRowTilesIs, kKeys = kKeysIs, kEarlySteps = kEarlyStepsIs;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr int kWarpRows = 16 * kRowTiles, kQueries = kWarps * kWarpRows;
  static constexpr int kTile = kKeys * kWidth;
  static constexpr int64_t kShared = shared_bytes<Bf16>(kQueries * kWidth) + shared_bytes<Bf16>(kRing * kTile);
};

SKP_DEVICE int slot_before(int slot) { return slot == 0 ? kRing - 1 : slot - 1; }
SKP_DEVICE int slot_after(int slot) { return slot == kRing - 1 ? 0 : slot + 1; }

// Grid: head_grid. factor: scale * log2(e).
template <typename Layout>
SKP_KERNEL(kThreads, Layout::kBlocksAtOnce)
attend(Heads<Bf16> y, Global<float> lse, Heads<const Bf16> q, Heads<const Bf16> k, Heads<const Bf16> v,
       AttentionExtents at, int items, int blocks, float factor) {
  constexpr int kWidth = Layout::kWidth, kRowTiles = Layout::kRowTiles, kKeys = Layout::kKeys,
                kQueries = Layout::kQueries, kTile = Layout::kTile;
  const int item = static_cast<int>(block_z() * grid_x() + block_x());
  if (item >= items) return;
  const int b = at.heads.quotient(item), h = item - b * at.heads.value(), g = at.group.quotient(h);
  // Those with most keys first.
  const int first_query = (blocks - 1 - block_y()) * kQueries, warp_row = warp_index() * Layout::kWarpRows;
  const int my_query = first_query + warp_row;
  const int keys = std::min(first_query + kQueries, at.tokens), tiles = (keys + kKeys - 1) / kKeys;

  SharedMemory memory;
  const Shared<Bf16> queries = memory.take<Bf16>(kQueries * kWidth), ring = memory.take<Bf16>(kRing * kTile);
  const TileLoader<kKeys, kWidth, kThreads> k_loader(k.head(b, g), at), v_loader(v.head(b, g), at);
  int slot = 0;  // of the tile in use
  const auto load = [&](const auto& loader, int tile, int to) {
    if (tile < tiles) loader.load(ring + to * kTile, tile * kKeys);
    copy_async_commit();
  };
  const auto await = [&] {
    copy_async_wait<1>();
    block_sync();
  };

  TileLoader<kQueries, kWidth, kThreads>(q.head(b, h), at).load(queries, first_query);
  load(k_loader, 0, 0);
  load(v_loader, 0, 1);
  Softmax<kRowTiles> softmax;
  float out[kRowTiles][kWidth / 8][4];
  set_zero(out);
  const auto attend_to = [&](int tile, auto diagonal) {
    float scores[kRowTiles][kKeys / 8][4];
    await();
    load(k_loader, tile + 1, slot_before(slot));
    multiply_rows<kWidth>(scores, queries, warp_row, ring + slot * kTile, 0);
    slot = slot_after(slot);
    if constexpr (diagonal()) mask<Rows::kQueries>(scores, my_query, tile * kKeys);
    softmax.raise_tops(scores, factor, [&](int m, int half, float by) { scale_row(out, m, half, by); });
    uint32_t probabilities[kKeys / 16][kRowTiles][4];
    const auto exponentiate = [&](int step) {
      softmax.exponentiate(scores, step, factor);
      pack_step(probabilities, scores, step);
    };
    SKP_UNROLL
    for (int step = 0; step < Layout::kEarlySteps; ++step) exponentiate(step);
    await();
    load(v_loader, tile + 1, slot_before(slot));
    add_product<kWidth>(out, probabilities, ring + slot * kTile, 0, [&](int step) {
      if (step >= Layout::kEarlySteps) exponentiate(step);
    });
    slot = slot_after(slot);
  };
  int tile = 0;
  for (; tile < first_query / kKeys; ++tile) attend_to(tile, std::false_type());
  for (; tile < tiles; ++tile) attend_to(tile, std::true_type());

  float inverse[kRowTiles][2];
  for_each_row<kRowTiles>([&](int m, int half) {
    const float total = softmax.total(m, half);
    const int query = my_query + 16 * m + 8 * half + lane_index() / 4;
    inverse[m][half] = fast_reciprocal(total);
    if (lane_index() % 4 == 0 && query < at.tokens)
      lse.store(static_cast<int64_t>(item) * at.tokens + query, softmax.top[m][half] / kLog2E + std::log(total));
  });
  store_rows<kWidth>(y.head(b, h), my_query, at, queries + warp_row * kWidth, out,
                     [&](int m, int half) { return inverse[m][half]; });
}

}  // namespace

void attention_forward_bf16(Context& ctx, const cuda::DeviceLimits& limits, Tensor y, Tensor lse, ConstTensor q,
                            ConstTensor k, ConstTensor v, float scale) {
  const AttentionExtents at = extents_of(q, k, {y, q, k, v});
  const auto run = [&](auto layout) {
    using Layout = decltype(layout);
    const int blocks = static_cast<int>(divide_up(at.tokens, Layout::kQueries));
    launch(Launch(ctx, "attention_forward", head_grid(limits, k, at.heads.value(), blocks), kThreads, Layout::kShared),
           attend<Layout>, heads_of(y), global<float>(lse), heads_of(q), heads_of(k), heads_of(v), at,
           static_cast<int>(q.dim(0)) * at.heads.value(), blocks, scale * kLog2E);
  };
  if (at.head_dim <= 64)
    run(QueryBlocks<64, 2, 128, 3>());
  else if (at.head_dim <= 128)
    run(QueryBlocks<128, 2, 64, 1>());
  else
    run(QueryBlocks<256, 1, 32, 1>());
}

}  // namespace skippipe::SKP_GPU
