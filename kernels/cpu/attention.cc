// Attention in tiles of kTile queries by kTile keys, after Dao et al. 2022 (arXiv:2205.14135). Operands are first
// packed into the workspace, padded with zeros to whole tiles and vectors; keys and values that are read across tokens
// are packed transposed, a tile after another. Threads split (batch, key/value head), so dk and dv have one writer
// each.
//
// Names: i queries, j keys, s scores, p probabilities.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tile_product.h"
#include "kernels/elements.h"

namespace skippipe::cpu {
namespace {

constexpr int64_t kTile = 64;
// A diagonal tile is computed in strips of this many queries, each only up to its last key.
constexpr int64_t kStrip = 16;
static_assert(kTile % kStrip == 0 && kStrip % kLanes == 0 && kStrip % kBlockRows == 0);

// Extents after padding, and the workspace of one thread carved into buffers.
struct Layout {
  int64_t tokens, head_dim;  // as given
  int64_t rows, width;       // padded: a multiple of kTile, of kLanes
  int64_t tiles;

  Layout(int64_t tokens_in, int64_t head_dim_in)
      : tokens(tokens_in),
        head_dim(head_dim_in),
        rows(round_up(tokens_in, kTile)),
        width(round_up(head_dim_in, kLanes)),
        tiles(rows / kTile) {}

  int64_t panel() const { return rows * width; }        // all tokens of one head
  int64_t tile_panel() const { return kTile * width; }  // one tile of them
  // Backward needs more than forward: eight panels, two score tiles, lse and delta.
  int64_t workspace_floats() const { return 8 * panel() + 2 * kTile * kTile + 2 * rows; }
};

// The rows of one head: token t at data + t * stride.
template <typename Element>
struct HeadRows {
  Element* data;
  int64_t stride;
};

template <typename Element, typename Void>
auto head_rows(const BasicTensor<Void>& x, int64_t b, int64_t h) {
  auto* data = x.template as<Element>() + b * x.stride(0) + h * x.stride(2);
  return HeadRows<std::remove_pointer_t<decltype(data)>>{data, x.stride(1)};
}

// to = scale * from
template <typename To, typename From>
void copy_scaled(To* to, const From* from, int64_t count, float scale) {
  for_each_vec(count, [=](int64_t i, auto access) { access.store(to + i, access.load(from + i) * scale); });
}

// packed[t][d] = scale * x[t][d], zero beyond.
template <typename Element>
void pack(float* packed, HeadRows<const Element> x, const Layout& at, float scale) {
  for (int64_t t = 0; t < at.tokens; ++t) {
    float* to = packed + t * at.width;
    copy_scaled(to, x.data + t * x.stride, at.head_dim, scale);
    std::fill(to + at.head_dim, to + at.width, 0.0f);
  }
  std::fill(packed + at.tokens * at.width, packed + at.panel(), 0.0f);
}

// packed[tile][d][j] = x[tile * kTile + j][d], zero beyond.
template <typename Element>
void pack_transposed(float* packed, HeadRows<const Element> x, const Layout& at) {
  std::fill_n(packed, at.panel(), 0.0f);
  for (int64_t t = 0; t < at.tokens; ++t) {
    const Element* from = x.data + t * x.stride;
    float* to = packed + t / kTile * at.tile_panel() + t % kTile;
    for (int64_t d = 0; d < at.head_dim; ++d) to[d * kTile] = from[d];
  }
}

// x[t][d] = scale * packed[t][d]
template <typename Element>
void unpack(HeadRows<Element> x, const float* packed, const Layout& at, float scale) {
  for (int64_t t = 0; t < at.tokens; ++t) copy_scaled(x.data + t * x.stride, packed + t * at.width, at.head_dim, scale);
}

// How many keys of the tile the queries [strip, strip + kStrip) of the tile may see, in whole strips.
int64_t visible_keys(bool diagonal, int64_t strip) { return diagonal ? strip + kStrip : kTile; }

// s[i][j] = a[i][:] . b[j][:] for one tile, with b transposed.
void score_products(float* s, const float* a, const float* b_transposed, const Layout& at, bool diagonal) {
  for (int64_t strip = 0; strip < kTile; strip += kStrip)
    tile_product<Store::kOverwrite>({s + strip * kTile, kTile}, {a + strip * at.width, at.width, 1},
                                    {b_transposed, kTile}, kStrip, visible_keys(diagonal, strip), at.width);
}

// out[i][:] += s[i][:] b for one tile.
void add_rows_product(float* out, const float* s, const float* b, const Layout& at, bool diagonal) {
  for (int64_t strip = 0; strip < kTile; strip += kStrip)
    tile_product<Store::kAdd>({out + strip * at.width, at.width}, {s + strip * kTile, kTile, 1}, {b, at.width}, kStrip,
                              at.width, visible_keys(diagonal, strip));
}

// out[j][:] += sum_i s[i][j] b[i][:] for one tile.
void add_columns_product(float* out, const float* s, const float* b, const Layout& at, bool diagonal) {
  for (int64_t strip = 0; strip < kTile; strip += kStrip) {
    const int64_t first = diagonal ? strip : 0;  // earlier queries do not see these keys
    tile_product<Store::kAdd>({out + strip * at.width, at.width}, {s + first * kTile + strip, 1, kTile},
                              {b + first * at.width, at.width}, kStrip, at.width, kTile - first);
  }
}

// s becomes p = exp(s - lse) and dp becomes ds = p * (dp - delta), for one query and one tile; 0 where it may not look.
void softmax_backward_row(float* s, float* dp, float lse, float delta, int64_t i, int64_t keys, bool diagonal) {
  for (int64_t j = 0; j < keys; j += kLanes) {
    Vec p = exp(load(s + j) - lse);
    Vec ds = p * (load(dp + j) - delta);
    if (diagonal) {
      const IntVec visible = keys_before(i + 1, j);
      p = visible ? p : Vec{};
      ds = visible ? ds : Vec{};
    }
    store(s + j, p);
    store(dp + j, ds);
  }
}

// One (batch, key/value head) of forward, with the query heads that read it.
class ForwardHead {
 public:
  ForwardHead(const Layout& at, float* workspace) : at_(at) {
    Carver carver(workspace);
    keys_ = carver.take(at.panel());
    values_ = carver.take(at.panel());
    queries_ = carver.take(at.panel());
    out_ = carver.take(at.tile_panel());
    scores_ = carver.take(kTile * kTile);
  }

  template <typename Element>
  void load_keys(HeadRows<const Element> k, HeadRows<const Element> v) {
    pack_transposed(keys_, k, at_);
    pack(values_, v, at_, 1.0f);
  }

  template <typename Element>
  void query_head(HeadRows<Element> y, float* lse, HeadRows<const Element> q, float scale) {
    pack(queries_, q, at_, scale);
    for (int64_t i = 0; i < at_.tiles; ++i) {
      query_tile(i);
      store_tile(y, lse, i);
    }
  }

 private:
  void query_tile(int64_t i) {
    std::fill_n(out_, at_.tile_panel(), 0.0f);
    std::fill_n(max_, kTile, -std::numeric_limits<float>::infinity());
    std::fill_n(sum_, kTile, 0.0f);
    for (int64_t j = 0; j <= i; ++j) {
      const bool diagonal = i == j;
      score_products(scores_, queries_ + i * at_.tile_panel(), keys_ + j * at_.tile_panel(), at_, diagonal);
      for (int64_t row = 0; row < kTile; ++row)
        softmax_row(scores_ + row * kTile, out_ + row * at_.width, max_[row], sum_[row], diagonal ? row + 1 : kTile,
                    visible_keys(diagonal, row / kStrip * kStrip), at_.width);
      add_rows_product(out_, scores_, values_ + j * at_.tile_panel(), at_, diagonal);
    }
  }

  template <typename Element>
  void store_tile(HeadRows<Element> y, float* lse, int64_t i) {
    const int64_t first = i * kTile, count = std::min(kTile, at_.tokens - first);
    for (int64_t row = 0; row < count; ++row) {
      copy_scaled(y.data + (first + row) * y.stride, out_ + row * at_.width, at_.head_dim, 1.0f / sum_[row]);
      lse[first + row] = max_[row] + std::log(sum_[row]);
    }
  }

  const Layout& at_;
  float *keys_, *values_, *queries_, *out_, *scores_;
  float max_[kTile], sum_[kTile];
};

// One (batch, key/value head) of backward, with the query heads that read it.
class BackwardHead {
 public:
  BackwardHead(const Layout& at, float* workspace) : at_(at) {
    Carver carver(workspace);
    keys_transposed_ = carver.take(at.panel());
    values_transposed_ = carver.take(at.panel());
    keys_ = carver.take(at.panel());
    queries_ = carver.take(at.panel());
    dy_ = carver.take(at.panel());
    dq_ = carver.take(at.panel());
    dk_ = carver.take(at.panel());
    dv_ = carver.take(at.panel());
    scores_ = carver.take(kTile * kTile);
    dscores_ = carver.take(kTile * kTile);
    lse_ = carver.take(at.rows);
    delta_ = carver.take(at.rows);
  }

  template <typename Element>
  void load_keys(HeadRows<const Element> k, HeadRows<const Element> v) {
    pack_transposed(keys_transposed_, k, at_);
    pack_transposed(values_transposed_, v, at_);
    pack(keys_, k, at_, 1.0f);
    std::fill_n(dk_, at_.panel(), 0.0f);
    std::fill_n(dv_, at_.panel(), 0.0f);
  }

  template <typename Element>
  void query_head(HeadRows<Element> dq, HeadRows<const Element> dy, HeadRows<const Element> q,
                  HeadRows<const Element> y, const float* lse, float scale) {
    pack(queries_, q, at_, scale);
    pack(dy_, dy, at_, 1.0f);
    std::fill_n(dq_, at_.panel(), 0.0f);
    std::copy_n(lse, at_.tokens, lse_);
    std::fill(lse_ + at_.tokens, lse_ + at_.rows, 0.0f);
    dot_rows(y);
    for (int64_t j = 0; j < at_.tiles; ++j)
      for (int64_t i = j; i < at_.tiles; ++i) tile(i, j);
    unpack(dq, dq_, at_, scale);
  }

  // dk needs no scale: it is in the packed queries.
  template <typename Element>
  void store_keys(HeadRows<Element> dk, HeadRows<Element> dv) {
    unpack(dk, dk_, at_, 1.0f);
    unpack(dv, dv_, at_, 1.0f);
  }

 private:
  // delta[t] = dy[t] . y[t] = sum_j p dp
  template <typename Element>
  void dot_rows(HeadRows<const Element> y) {
    std::fill(delta_ + at_.tokens, delta_ + at_.rows, 0.0f);
    for (int64_t t = 0; t < at_.tokens; ++t) {
      const float* left = dy_ + t * at_.width;
      const Element* right = y.data + t * y.stride;
      Vec dot{};
      for_each_vec(at_.head_dim,
                   [&](int64_t d, auto access) { dot += access.load(left + d) * access.load(right + d); });
      delta_[t] = sum_lanes(dot);
    }
  }

  void tile(int64_t i, int64_t j) {
    const bool diagonal = i == j;
    const int64_t row = i * at_.tile_panel(), column = j * at_.tile_panel();
    score_products(scores_, queries_ + row, keys_transposed_ + column, at_, diagonal);
    score_products(dscores_, dy_ + row, values_transposed_ + column, at_, diagonal);
    for (int64_t r = 0; r < kTile; ++r)
      softmax_backward_row(scores_ + r * kTile, dscores_ + r * kTile, lse_[i * kTile + r], delta_[i * kTile + r], r,
                           visible_keys(diagonal, r / kStrip * kStrip), diagonal);
    add_columns_product(dv_ + column, scores_, dy_ + row, at_, diagonal);
    add_columns_product(dk_ + column, dscores_, queries_ + row, at_, diagonal);
    add_rows_product(dq_ + row, dscores_, keys_ + column, at_, diagonal);
  }

  const Layout& at_;
  float *keys_transposed_, *values_transposed_, *keys_, *queries_, *dy_, *dq_, *dk_, *dv_, *scores_, *dscores_, *lse_,
      *delta_;
};

float* thread_workspace(const Context& ctx, const Layout& at, int thread) {
  return reinterpret_cast<float*>(ctx.workspace.data()) + thread * at.workspace_floats();
}

}  // namespace

int64_t CpuBackend::attention_workspace_bytes(const Context& ctx, int64_t batch, int64_t tokens, int64_t,
                                              int64_t kv_heads, int64_t head_dim) const {
  // Rejects extents whose padded product would not fit, before computing with them.
  element_count({64, 16, tokens, head_dim});
  element_count({batch, kv_heads});
  const int64_t threads = std::min<int64_t>(ctx.threads, batch * kv_heads);
  return element_count({threads, Layout(tokens, head_dim).workspace_floats(), static_cast<int64_t>(sizeof(float))});
}

void CpuBackend::attention_forward(Context& ctx, Tensor y, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                                   float scale) {
  const Layout at(q.dim(1), q.dim(3));
  const int64_t heads = q.dim(2), kv_heads = k.dim(2), group = heads / kv_heads;
  with_element(q.dtype(), [&](auto element) {
    using Element = decltype(element);
    parallel_items(ctx.threads, q.dim(0) * kv_heads, [&](int thread, int64_t item) {
      const int64_t b = item / kv_heads, g = item % kv_heads;
      ForwardHead head(at, thread_workspace(ctx, at, thread));
      head.load_keys(head_rows<Element>(k, b, g), head_rows<Element>(v, b, g));
      for (int64_t h = g * group; h < (g + 1) * group; ++h)
        head.query_head(head_rows<Element>(y, b, h), lse.as<float>() + (b * heads + h) * at.tokens,
                        head_rows<Element>(q, b, h), scale);
    });
  });
}

void CpuBackend::attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy, ConstTensor q,
                                    ConstTensor k, ConstTensor v, ConstTensor y, ConstTensor lse, float scale) {
  const Layout at(q.dim(1), q.dim(3));
  const int64_t heads = q.dim(2), kv_heads = k.dim(2), group = heads / kv_heads;
  with_element(q.dtype(), [&](auto element) {
    using Element = decltype(element);
    parallel_items(ctx.threads, q.dim(0) * kv_heads, [&](int thread, int64_t item) {
      const int64_t b = item / kv_heads, g = item % kv_heads;
      BackwardHead head(at, thread_workspace(ctx, at, thread));
      head.load_keys(head_rows<Element>(k, b, g), head_rows<Element>(v, b, g));
      for (int64_t h = g * group; h < (g + 1) * group; ++h)
        head.query_head(head_rows<Element>(dq, b, h), head_rows<Element>(dy, b, h), head_rows<Element>(q, b, h),
                        head_rows<Element>(y, b, h), lse.as<float>() + (b * heads + h) * at.tokens, scale);
      head.store_keys(head_rows<Element>(dk, b, g), head_rows<Element>(dv, b, g));
    });
  });
}

}  // namespace skippipe::cpu
