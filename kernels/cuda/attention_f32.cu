#include <cmath>
#include <limits>

#include "kernels/cuda/attention_f32.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/reduce.h"

namespace skippipe::SKP_GPU {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct ForwardParameters {
  AttentionSizes sizes;
  RowStrides q, k, v, y;
  int parts;
  float scale;
  bool vectors;
};

// The softmax of rows whose scores come a tile after another: the maximum so far, and this thread's share of the sum
// of exp(score - maximum).
template <typename Tile>
struct RunningSoftmax {
  float top[Tile::kRows], sum[Tile::kRows];

  SKP_DEVICE RunningSoftmax() {
    SKP_UNROLL
    for (int r = 0; r < Tile::kRows; ++r) top[r] = -kInfinity;
    Tile::clear(sum);
  }

  // Row r sees the first `visible[r]` keys of the tile. Scores become exp(score - maximum), and `out` is rescaled.
  SKP_DEVICE void add(float (&s)[Tile::kRows][Tile::kColumns], float (&out)[Tile::kRows][Tile::kOwned],
                      const int (&visible)[Tile::kRows], int first_key, float scale) {
    SKP_UNROLL
    for (int r = 0; r < Tile::kRows; ++r) {
      float largest = -kInfinity;
      SKP_UNROLL
      for (int c = 0; c < Tile::kColumns; ++c) {
        s[r][c] = first_key + Tile::column(c) < visible[r] ? s[r][c] * scale : -kInfinity;
        largest = s[r][c] > largest ? s[r][c] : largest;
      }
      largest = warp_max<Tile::kAcross>(largest);
      const float new_top = largest > top[r] ? largest : top[r];
      const float origin = new_top == -kInfinity ? 0.0f : new_top;  // a row that has seen no key yet
      const float shrink = fast_exp2((top[r] - origin) * kLog2E);
      top[r] = new_top;
      sum[r] *= shrink;
      SKP_UNROLL
      for (int c = 0; c < Tile::kColumns; ++c) {
        s[r][c] = fast_exp2((s[r][c] - origin) * kLog2E);
        sum[r] += s[r][c];
      }
      SKP_UNROLL
      for (int d = 0; d < Tile::kOwned; ++d) out[r][d] *= shrink;
    }
  }
};

// After Dao 2023, "FlashAttention-2" (arXiv:2307.08691). A block computes one tile of query rows from one part of the
// keys. While it works on keys, values are on their way, and the other way round.
template <typename Tile>
SKP_KERNEL(Tile::kThreads, 2)
attend(ForwardParameters at, Global<float> y, Global<float> lse, Global<const float> q, Global<const float> k,
       Global<const float> v) {
  const AttentionSizes& sizes = at.sizes;
  const int tiles = divide_up(sizes.rows, Tile::kQueries);
  const BlockPlace place(sizes.batch * at.parts, sizes.kv_heads);
  const int tile = tiles - 1 - place.tile;  // those with the most keys first
  const int part = static_cast<int>(place.batch % at.parts);
  const int64_t b = place.batch / at.parts;
  const int kv_head = place.kv_head, first_row = tile * Tile::kQueries;

  SharedMemory memory;
  const Shared<float> queries = memory.take<float>(Tile::kQueryFloats), keys = memory.take<float>(Tile::kKeyFloats),
                      values = memory.take<float>(Tile::kKeyFloats), scores = memory.take<float>(Tile::kScoreFloats);

  const int last_row = (first_row + Tile::kQueries < sizes.rows ? first_row + Tile::kQueries : sizes.rows) - 1;
  const int64_t key_tiles = divide_up(sizes.visible(last_row), Tile::kKeys);
  const int begin = static_cast<int>(key_tiles * part / at.parts);
  const int end = static_cast<int>(key_tiles * (part + 1) / at.parts);
  const auto load_keys = [&](Shared<float> to, Global<const float> from, const RowStrides& x, int key_tile) {
    if (key_tile < end)
      Tile::template load<Tile::kKeys>(to, from, sizes.head_dim, at.vectors, [&](int r) {
        return sizes.key_offset(x, b, kv_head, key_tile * Tile::kKeys + r);
      });
    copy_async_commit();
  };
  Tile::template load<Tile::kQueries>(queries, q, sizes.head_dim, at.vectors,
                                      [&](int r) { return sizes.query_offset(at.q, b, kv_head, first_row + r); });
  load_keys(keys, k, at.k, begin);
  load_keys(values, v, at.v, begin);

  int visible[Tile::kRows];
  SKP_UNROLL
  for (int r = 0; r < Tile::kRows; ++r) visible[r] = sizes.visible(first_row + Tile::row(r));
  RunningSoftmax<Tile> softmax;
  float out[Tile::kRows][Tile::kOwned];
  Tile::clear(out);
  for (int key_tile = begin; key_tile < end; ++key_tile) {
    float s[Tile::kRows][Tile::kColumns];
    copy_async_wait<1>();
    block_sync();  // the keys are there
    Tile::score(s, queries, keys, sizes.head_dim);
    softmax.add(s, out, visible, key_tile * Tile::kKeys, at.scale);
    Tile::store_scores(scores, s);
    copy_async_wait<0>();
    block_sync();  // the values are there, and nobody reads the keys any more
    load_keys(keys, k, at.k, key_tile + 1);
    Tile::add_keys(out, scores, values);
    block_sync();
    load_keys(values, v, at.v, key_tile + 1);
  }
  copy_async_wait<0>();  // of a part without keys

  SKP_UNROLL
  for (int r = 0; r < Tile::kRows; ++r) {
    const int row = first_row + Tile::row(r);
    const float sum = warp_sum<Tile::kAcross>(softmax.sum[r]);
    if (row >= sizes.rows) continue;
    Tile::store_row(y, sizes.query_offset(at.y, place.batch, kv_head, row), out[r], sum == 0.0f ? 0.0f : 1.0f / sum,
                    sizes.head_dim, at.vectors);
    if (Tile::across() == 0) lse.store(sizes.lse_offset(place.batch, kv_head, row), softmax.top[r] + std::log(sum));
  }
}

template <typename Tile>
void launch_attend(Context& ctx, const ForwardF32& job) {
  const ForwardParameters at{
      AttentionSizes(job.q, job.k),
      RowStrides(job.q),
      RowStrides(job.k),
      RowStrides(job.v),
      RowStrides(job.y),
      job.parts,
      job.scale,
      takes_vectors(job.q) && takes_vectors(job.k) && takes_vectors(job.v) && takes_vectors(job.y)};
  const int64_t blocks = divide_up(at.sizes.rows, Tile::kQueries) * at.sizes.batch * at.parts * at.sizes.kv_heads;
  constexpr int64_t kShared = shared_bytes<float>(Tile::kQueryFloats) + 2 * shared_bytes<float>(Tile::kKeyFloats) +
                              shared_bytes<float>(Tile::kScoreFloats);
  static_assert(kShared <= kSharedBytesAnywhere);
  launch(Launch(ctx, "attention_forward_f32", {blocks}, Tile::kThreads, kShared), attend<Tile>, at,
         global<float>(job.y), global<float>(job.lse), global<float>(job.q), global<float>(job.k),
         global<float>(job.v));
}

}  // namespace

void forward_f32(Context& ctx, const ForwardF32& job) {
  with_tile_width(job.q.dim(3), [&](auto width) {
    constexpr bool kWide = width() > 128;  // less of them fits into shared memory
    if (job.query_rows == kFewRowsF32)
      launch_attend<TileF32<kFewRowsF32, kWide ? 16 : 32, width(), 128>>(ctx, job);
    else
      launch_attend<TileF32<kWide ? 32 : kManyRowsF32, kWide ? 16 : 32, width(), kWide ? 128 : 256>>(ctx, job);
  });
}

void attention_forward_f32(Context& ctx, const cuda::DeviceLimits& limits, Tensor y, Tensor lse, ConstTensor q,
                           ConstTensor k, ConstTensor v, float scale) {
  const AttentionSizes sizes(q, k);
  const int64_t blocks = sizes.batch * sizes.kv_heads * divide_up(sizes.rows, kManyRowsF32);
  const bool fills = blocks >= limits.multiprocessors;
  forward_f32(ctx, {y, lse, q, k, v, scale, fills ? kManyRowsF32 : kFewRowsF32});
}

}  // namespace skippipe::SKP_GPU
