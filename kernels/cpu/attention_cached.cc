// Attention of few queries to many keys. The query rows of a key/value head (a row per token and query head) are cut
// into blocks and the keys into parts; each item, a block against a part, leaves its running maximum, sum and output,
// and these partial results are put together in a second pass. How the work is cut depends on the shapes only.
//
// Names: r query rows, j keys, s scores, p probabilities.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tile_product.h"

namespace skippipe::cpu {
namespace {

constexpr int64_t kTileKeys = 64;
constexpr int64_t kMaxRows = 64;  // of a block
static_assert(kTileKeys % kLanes == 0 && kMaxRows % kBlockRows == 0);
// Keys are cut into parts until there are so many items, or until a part has only two tiles.
constexpr int64_t kWantedItems = 32;
constexpr int64_t kMinPartTiles = 2;

constexpr int64_t divide_up(int64_t value, int64_t by) { return (value - 1) / by + 1; }

// How the query rows of a key/value head are cut into blocks, and what an item needs at most.
struct RowCut {
  int64_t group;  // query heads that read the same keys
  int64_t rows;   // token t and head h of the group are row t * group + h
  int64_t blocks;
  int64_t block_rows, width;              // padded
  int64_t partial_floats, thread_floats;  // of an item's result, of a thread's buffers

  RowCut(int64_t queries, int64_t heads, int64_t kv_heads, int64_t head_dim)
      : group(heads / kv_heads),
        rows(element_count({queries, group})),
        blocks(divide_up(rows, kMaxRows)),
        block_rows(round_up(std::min(kMaxRows, rows), kBlockRows)),
        width(round_up(head_dim, kLanes)),
        partial_floats(element_count({block_rows, width + kLanes})),
        thread_floats(element_count({block_rows + 2 * kTileKeys, width}) + block_rows * kTileKeys) {}
};

// One block's result from one part of the keys. A row that saw none of them has a sum of 0.
struct Partial {
  float *out, *max, *sum;

  Partial(float* at, const RowCut& cut) : out(at), max(at + cut.block_rows * cut.width), sum(max + cut.block_rows) {}
};

struct Problem {
  const Tensor& y;
  const ConstTensor &q, &k, &v;
  float scale;
  RowCut cut;
  int64_t kv_heads, head_dim, before;  // positions before the first query
  int64_t parts;

  Problem(const Tensor& y_in, const ConstTensor& q_in, const ConstTensor& k_in, const ConstTensor& v_in, float scale_in)
      : y(y_in),
        q(q_in),
        k(k_in),
        v(v_in),
        scale(scale_in),
        cut(q.dim(0), q.dim(1), k.dim(1), q.dim(2)),
        kv_heads(k.dim(1)),
        head_dim(q.dim(2)),
        before(k.dim(0) - q.dim(0)),
        parts(std::clamp<int64_t>(divide_up(k.dim(0), kMinPartTiles * kTileKeys), 1,
                                  divide_up(kWantedItems, kv_heads * cut.blocks))) {}

  int64_t items() const { return kv_heads * cut.blocks * parts; }
  // How many keys the row may see.
  int64_t visible(int64_t row) const { return before + row / cut.group + 1; }
  // Element offset of the row of key/value head g in q or y.
  template <typename Void>
  int64_t offset(const BasicTensor<Void>& x, int64_t g, int64_t row) const {
    return row / cut.group * x.stride(0) + (g * cut.group + row % cut.group) * x.stride(1);
  }
};

// One thread's buffers, and the work on an item.
class ItemWorker {
 public:
  ItemWorker(const Problem& problem, float* workspace) : at_(problem), cut_(problem.cut) {
    Carver carver(workspace);
    queries_ = carver.take(cut_.block_rows * cut_.width);
    keys_ = carver.take(kTileKeys * cut_.width);
    values_ = carver.take(kTileKeys * cut_.width);
    scores_ = carver.take(cut_.block_rows * kTileKeys);
  }

  void run(int64_t item, const Partial& partial) {
    const int64_t part = item % at_.parts, block = item / at_.parts % cut_.blocks;
    head_ = item / at_.parts / cut_.blocks;
    first_row_ = block * kMaxRows;
    rows_ = std::min(kMaxRows, cut_.rows - first_row_);
    std::fill_n(partial.out, cut_.partial_floats, 0.0f);
    std::fill_n(partial.max, rows_, -std::numeric_limits<float>::infinity());
    pack_queries();
    const int64_t keys = at_.visible(first_row_ + rows_ - 1), tiles = divide_up(keys, kTileKeys);
    for (int64_t tile = tiles * part / at_.parts; tile < tiles * (part + 1) / at_.parts; ++tile)
      add_tile(partial, tile * kTileKeys, std::min(kTileKeys, keys - tile * kTileKeys));
  }

 private:
  // Scaled; zeros beyond the rows and the head.
  void pack_queries() {
    std::fill_n(queries_, cut_.block_rows * cut_.width, 0.0f);
    for (int64_t r = 0; r < rows_; ++r) {
      const float* from = at_.q.as<float>() + at_.offset(at_.q, head_, first_row_ + r);
      for (int64_t d = 0; d < at_.head_dim; ++d) queries_[r * cut_.width + d] = from[d] * at_.scale;
    }
  }

  // keys_[d][j], zeros beyond.
  void pack_keys(int64_t first, int64_t count) {
    if (count < kTileKeys) std::fill_n(keys_, kTileKeys * cut_.width, 0.0f);
    for (int64_t j = 0; j < count; ++j) {
      const float* from = at_.k.as<float>() + (first + j) * at_.k.stride(0) + head_ * at_.k.stride(1);
      for (int64_t d = 0; d < at_.head_dim; ++d) keys_[d * kTileKeys + j] = from[d];
    }
  }

  // Where they lie if rows are whole vectors, else packed with zeros behind each.
  RowTile<const float> value_rows(int64_t first, int64_t count) {
    const float* from = at_.v.as<float>() + first * at_.v.stride(0) + head_ * at_.v.stride(1);
    if (at_.head_dim == cut_.width) return {from, at_.v.stride(0)};
    std::fill_n(values_, kTileKeys * cut_.width, 0.0f);
    for (int64_t j = 0; j < count; ++j) std::copy_n(from + j * at_.v.stride(0), at_.head_dim, values_ + j * cut_.width);
    return {values_, cut_.width};
  }

  void add_tile(const Partial& partial, int64_t first, int64_t count) {
    const int64_t rows = round_up(rows_, kBlockRows), keys = round_up(count, kLanes), width = cut_.width;
    pack_keys(first, count);
    tile_product<Store::kOverwrite>({scores_, kTileKeys}, {queries_, width, 1}, {keys_, kTileKeys}, rows, keys,
                                    at_.head_dim);
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t visible = std::min(at_.visible(first_row_ + r) - first, count);
      float* s = scores_ + r * kTileKeys;
      if (visible > 0)
        softmax_row(s, partial.out + r * width, partial.max[r], partial.sum[r], visible, keys, width);
      else
        std::fill_n(s, keys, 0.0f);
    }
    tile_product<Store::kAdd>({partial.out, width}, {scores_, kTileKeys, 1}, value_rows(first, count), rows, width,
                              count);
  }

  const Problem& at_;
  const RowCut& cut_;
  float *queries_, *keys_, *values_, *scores_;
  int64_t head_ = 0, first_row_ = 0, rows_ = 0;
};

// y of one row from its parts, which lie one after another.
void combine(const Problem& at, float* partials, int64_t head, int64_t row) {
  const int64_t block = row / kMaxRows, r = row % kMaxRows;
  float* first = partials + (head * at.cut.blocks + block) * at.parts * at.cut.partial_floats;
  const auto part = [&](int64_t i) { return Partial(first + i * at.cut.partial_floats, at.cut); };
  float top = part(0).max[r], sum = 0;
  for (int64_t i = 1; i < at.parts; ++i) top = std::max(top, part(i).max[r]);
  float* y = at.y.as<float>() + at.offset(at.y, head, row);
  std::fill_n(y, at.head_dim, 0.0f);
  for (int64_t i = 0; i < at.parts; ++i) {
    const Partial from = part(i);
    if (from.sum[r] == 0.0f) continue;
    const float share = exp_one(from.max[r] - top);
    sum += from.sum[r] * share;
    for (int64_t d = 0; d < at.head_dim; ++d) y[d] += from.out[r * at.cut.width + d] * share;
  }
  for (int64_t d = 0; d < at.head_dim; ++d) y[d] /= sum;
}

}  // namespace

int64_t CpuBackend::attention_cached_workspace_bytes(const Context& ctx, int64_t queries, int64_t heads,
                                                     int64_t kv_heads, int64_t head_dim) const {
  const RowCut cut(queries, heads, kv_heads, head_dim);
  // Of any number of positions: parts never make more items than this.
  const int64_t items = element_count({kv_heads, cut.blocks}) + kWantedItems;
  return element_count({items, cut.partial_floats, 4}) + element_count({ctx.threads, cut.thread_floats, 4});
}

void CpuBackend::attention_cached_forward(Context& ctx, Tensor y, ConstTensor q, ConstTensor k, ConstTensor v,
                                          float scale) {
  const Problem problem(y, q, k, v, scale);
  float* partials = reinterpret_cast<float*>(ctx.workspace.data());
  float* threads = partials + problem.items() * problem.cut.partial_floats;
  parallel_items(ctx.threads, problem.items(), [&](int thread, int64_t item) {
    ItemWorker(problem, threads + thread * problem.cut.thread_floats)
        .run(item, Partial(partials + item * problem.cut.partial_floats, problem.cut));
  });
  const int64_t rows = problem.kv_heads * problem.cut.rows;
  parallel_ranges(ctx.threads, rows, row_grain(problem.cut.width * problem.parts), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) combine(problem, partials, i / problem.cut.rows, i % problem.cut.rows);
  });
}

}  // namespace skippipe::cpu
