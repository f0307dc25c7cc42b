#include <cmath>

#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vectors.h"
#include "kernels/elements.h"

namespace skippipe::SKP_GPU {
namespace {

// Rows are shared out to teams: warps for short rows, blocks for long ones. A thread keeps up to kHeld vectors of its
// team's row in registers between the sum and the result; what a row has beyond that is read again.
template <int kWidth>
inline constexpr int kHeld = kWidth == 1 ? 4 : 16 / kWidth;
constexpr int kWarpTeams = 4;  // in a block

// Threads of a block at most, and of a multiprocessor as far as registers reach.
constexpr int kForwardThreads = 1024, kForwardRoom = 4096;
constexpr int kBackwardThreads = 512, kBackwardRoom = 512;  // the sums of dw take registers

constexpr int64_t kTeamShared = shared_bytes<float>(2 * kWarp);

struct Teams {
  // For rows of so many vectors, of which a thread holds so many.
  Teams(int64_t vectors, int held, int most_threads) : are_warps(vectors <= held * kWarp) {
    const int64_t needed = (vectors + held * kWarp - 1) / (held * kWarp) * kWarp;
    threads = are_warps ? kWarpTeams * kWarp : static_cast<int>(std::min<int64_t>(needed, most_threads));
  }
  int per_block() const { return are_warps ? kWarpTeams : 1; }
  // Blocks that fill the device once.
  int64_t blocks(const cuda::DeviceLimits& limits, int room) const {
    return int64_t{limits.multiprocessors} * std::max(1, room / threads);
  }
  Grid grid(const cuda::DeviceLimits& limits, int room, int64_t rows) const {
    return {std::min(blocks(limits, room), (rows + per_block() - 1) / per_block())};
  }

  bool are_warps;
  int threads;
};

// What a thread has of its team's rows.
template <int kWidth, bool kTeamsAreWarps>
class RowPart {
 public:
  SKP_DEVICE explicit RowPart(int64_t channels)
      : channels_(channels),
        first_(kTeamsAreWarps ? lane_index() : thread_index()),
        step_(kTeamsAreWarps ? kWarp : block_threads()) {
    SharedMemory memory;
    scratch_ = memory.take<float>(2 * kWarp);
  }

  SKP_DEVICE int64_t team() const { return kTeamsAreWarps ? block_x() * kWarpTeams + warp_index() : block_x(); }
  SKP_DEVICE int64_t teams() const { return kTeamsAreWarps ? grid_x() * kWarpTeams : grid_x(); }
  // body(j, c) for the vectors at columns c that are held at index j.
  template <typename Body>
  SKP_DEVICE void for_each_held(const Body& body) const {
    SKP_UNROLL
    for (int j = 0; j < kHeld<kWidth>; ++j) {
      const int c = (first_ + j * step_) * kWidth;
      if (c < channels_) body(j, c);
    }
  }
  // body(c) for the vectors beyond those, which a warp's row has none of.
  template <typename Body>
  SKP_DEVICE void for_each_beyond(const Body& body) const {
    if constexpr (!kTeamsAreWarps)
      for (int64_t c = (first_ + kHeld<kWidth> * step_) * kWidth; c < channels_; c += step_ * kWidth) body(c);
  }
  // The sum over the whole team.
  SKP_DEVICE float sum(float value) {
    if constexpr (kTeamsAreWarps) {
      return warp_sum(value);
    } else {
      // Two places in turns, because some may still read the sum of the row before.
      odd_ = !odd_;
      return block_sum(value, scratch_ + (odd_ ? kWarp : 0));
    }
  }
  SKP_DEVICE bool is_first() const { return first_ == 0; }

 private:
  int64_t channels_;
  int first_, step_;
  Shared<float> scratch_;
  bool odd_ = false;
};

template <int kWidth>
SKP_DEVICE float sum_of_squares(const Vec<float, kWidth>& x) {
  float sum = 0;
  SKP_UNROLL
  for (int j = 0; j < kWidth; ++j) sum += x.values[j] * x.values[j];
  return sum;
}

template <typename T, int kWidth>
SKP_DEVICE Vec<T, kWidth> scaled(const Vec<T, kWidth>& x, float rrms, const Vec<T, kWidth>& w) {
  auto result = widen(x);
  const auto scale = widen(w);
  SKP_UNROLL
  for (int j = 0; j < kWidth; ++j) result.values[j] = result.values[j] * rrms * scale.values[j];
  return narrow<T>(result);
}

// With kAdd, what is normalized is the sum of x and residual, as it is stored in `sum`.
template <typename T, int kWidth, bool kTeamsAreWarps, bool kAdd>
SKP_KERNEL(kForwardThreads, 1)
normalize(Global<T> y, Global<T> sum, Global<float> rrms, Global<const T> x, Global<const T> residual,
          Global<const T> w, int64_t rows, int64_t channels, float eps) {
  using Vector = Vec<T, kWidth>;
  RowPart<kWidth, kTeamsAreWarps> part(channels);
  for (int64_t n = part.team(); n < rows; n += part.teams()) {
    const int64_t row = n * channels;
    const auto load = [&](Global<const T> from, int64_t c) { return from.template load_vec<kWidth>(row + c); };
    const auto add_and_store = [&](const Vector& a, const Vector& b, int64_t c) {
      auto total = widen(a);
      const auto other = widen(b);
      SKP_UNROLL
      for (int j = 0; j < kWidth; ++j) total.values[j] += other.values[j];
      const Vector stored = narrow<T>(total);
      sum.store_vec(row + c, stored);
      return stored;
    };

    Vector held[kHeld<kWidth>]{}, other[kHeld<kWidth>]{}, scale[kHeld<kWidth>]{};
    part.for_each_held([&](int j, int c) { held[j] = load(x, c); });
    if constexpr (kAdd) {
      part.for_each_held([&](int j, int c) { other[j] = load(residual, c); });
      part.for_each_held([&](int j, int c) { held[j] = add_and_store(held[j], other[j], c); });
    }
    part.for_each_held([&](int j, int c) { scale[j] = w.template load_vec<kWidth>(c); });
    float squares = 0;
    SKP_UNROLL
    for (int j = 0; j < kHeld<kWidth>; ++j) squares += sum_of_squares(widen(held[j]));
    part.for_each_beyond([&](int64_t c) {
      auto value = load(x, c);
      if constexpr (kAdd) value = add_and_store(value, load(residual, c), c);
      squares += sum_of_squares(widen(value));
    });

    const float factor = 1.0f / std::sqrt(part.sum(squares) / static_cast<float>(channels) + eps);
    if (part.is_first()) rrms.store(n, factor);
    part.for_each_held([&](int j, int c) { y.store_vec(row + c, scaled(held[j], factor, scale[j])); });
    part.for_each_beyond([&](int64_t c) {
      const auto value = kAdd ? load(sum, c) : load(x, c);
      y.store_vec(row + c, scaled(value, factor, w.template load_vec<kWidth>(c)));
    });
  }
}

template <typename T, int kWidth>
SKP_DEVICE float sum_of_products(const Vec<T, kWidth>& a, const Vec<T, kWidth>& b, const Vec<T, kWidth>& c) {
  const auto x = widen(a), y = widen(b), z = widen(c);
  float sum = 0;
  SKP_UNROLL
  for (int j = 0; j < kWidth; ++j) sum += x.values[j] * y.values[j] * z.values[j];
  return sum;
}

// Of x, with the row's part of dw added to its sum.
template <typename T, int kWidth>
SKP_DEVICE Vec<T, kWidth> gradient(const Vec<T, kWidth>& dy, const Vec<T, kWidth>& x, const Vec<T, kWidth>& w,
                                   const Vec<T, kWidth>& added, float rrms, float mean, Vec<float, kWidth>& dw) {
  const auto g = widen(dy), value = widen(x), scale = widen(w);
  auto result = widen(added);
  SKP_UNROLL
  for (int j = 0; j < kWidth; ++j) {
    result.values[j] += rrms * (scale.values[j] * g.values[j] - value.values[j] * mean);
    dw.values[j] += g.values[j] * value.values[j] * rrms;
  }
  return narrow<T>(result);
}

// Each team that has rows writes their sum of dw to a row of `parts`.
template <typename T, int kWidth, bool kTeamsAreWarps>
SKP_KERNEL(kBackwardThreads, 1)
backward(Global<T> dx, Global<float> parts, Global<const T> dy, Global<const T> x, Global<const T> w,
         Global<const float> rrms, Global<const T> dresidual, bool has_residual, int64_t rows, int64_t channels) {
  using Vector = Vec<T, kWidth>;
  using Sum = Vec<float, kWidth>;
  RowPart<kWidth, kTeamsAreWarps> part(channels);
  const Global<float> dw = parts + part.team() * channels;
  Sum dw_held[kHeld<kWidth>]{};

  for (int64_t n = part.team(); n < rows; n += part.teams()) {
    const int64_t row = n * channels;
    const auto load = [&](Global<const T> from, int64_t c) { return from.template load_vec<kWidth>(row + c); };
    const auto load_w = [&](int64_t c) { return w.template load_vec<kWidth>(c); };

    const float r = rrms.load(n);
    Vector g[kHeld<kWidth>]{}, value[kHeld<kWidth>]{}, extra[kHeld<kWidth>]{}, scale[kHeld<kWidth>]{};
    part.for_each_held([&](int j, int c) { g[j] = load(dy, c); });
    part.for_each_held([&](int j, int c) { value[j] = load(x, c); });
    if (has_residual) part.for_each_held([&](int j, int c) { extra[j] = load(dresidual, c); });
    part.for_each_held([&](int j, int c) { scale[j] = load_w(c); });
    float product = 0;
    SKP_UNROLL
    for (int j = 0; j < kHeld<kWidth>; ++j) product += sum_of_products(g[j], value[j], scale[j]);
    part.for_each_beyond([&](int64_t c) { product += sum_of_products(load(dy, c), load(x, c), load_w(c)); });
    const float mean = part.sum(product) * r * r / static_cast<float>(channels);

    part.for_each_held([&](int j, int c) {
      dx.store_vec(row + c, gradient(g[j], value[j], scale[j], extra[j], r, mean, dw_held[j]));
    });
    part.for_each_beyond([&](int64_t c) {
      auto dw_sum = n == part.team() ? Sum{} : load_elements<kWidth>(Global<const float>(dw), c);
      const auto added = has_residual ? load(dresidual, c) : Vector{};
      dx.store_vec(row + c, gradient(load(dy, c), load(x, c), load_w(c), added, r, mean, dw_sum));
      store_elements(dw, c, dw_sum);
    });
  }
  if (part.team() < rows) part.for_each_held([&](int j, int c) { store_elements(dw, c, dw_held[j]); });
}

// Each warp sums a share of the parts for 32 columns, then the first warp sums what they have.
constexpr int kPartThreads = 1024;
SKP_KERNEL(kPartThreads, 1)
add_parts(Global<float> dw, Global<const float> parts, int64_t count, int64_t channels) {
  constexpr int kAtOnce = 4;
  SharedMemory memory;
  const int warps = block_threads() / kWarp;
  const Shared<float> sums = memory.take<float>(block_threads());
  const int64_t column = block_x() * kWarp + lane_index();
  float sum = 0;
  for (int64_t i = warp_index(); i < count; i += kAtOnce * warps) {
    float terms[kAtOnce]{};
    SKP_UNROLL
    for (int j = 0; j < kAtOnce; ++j)
      if (i + j * warps < count && column < channels) terms[j] = parts.load((i + j * warps) * channels + column);
    SKP_UNROLL
    for (int j = 0; j < kAtOnce; ++j) sum += terms[j];
  }
  sums.store(thread_index(), sum);
  block_sync();
  if (warp_index() == 0 && column < channels) {
    float total = dw.load(column);
    for (int i = 0; i < warps; ++i) total += sums.load(i * kWarp + lane_index());
    dw.store(column, total);
  }
}

// body(flag) with the flag as a type.
template <typename Body>
void with_flag(bool flag, const Body& body) {
  if (flag)
    body(std::true_type());
  else
    body(std::false_type());
}

// `sum` and `residual` may be empty: then x is normalized.
void normalize_rows(Context& ctx, const cuda::DeviceLimits& limits, const char* name, const Tensor& y,
                    const Tensor& sum, const Tensor& rrms, const ConstTensor& x, const ConstTensor& residual,
                    const ConstTensor& w, float eps) {
  const int64_t rows = x.dim(0), channels = x.dim(1);
  const bool vectors = takes_vectors(y, x, w) && (sum.empty() || takes_vectors(sum, residual));
  with_element(x.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kWidest<T>>(vectors, [&](auto width) {
      const Teams teams(channels / width(), kHeld<width()>, kForwardThreads);
      const Launch at(ctx, name, teams.grid(limits, kForwardRoom, rows), teams.threads, kTeamShared);
      with_flag(teams.are_warps, [&](auto are_warps) {
        with_flag(!sum.empty(), [&](auto add) {
          launch(at, normalize<T, width(), are_warps(), add()>, global<T>(y), global<T>(sum), global<float>(rrms),
                 global<T>(x), global<T>(residual), global<T>(w), rows, channels, eps);
        });
      });
    });
  });
}

}  // namespace

void GpuBackend::rmsnorm_forward(Context& ctx, Tensor y, Tensor rrms, ConstTensor x, ConstTensor w, float eps) {
  normalize_rows(ctx, limits_, "rmsnorm_forward", y, {}, rrms, x, {}, w, eps);
}

void GpuBackend::add_rmsnorm_forward(Context& ctx, Tensor y, Tensor sum, Tensor rrms, ConstTensor x,
                                     ConstTensor residual, ConstTensor w, float eps) {
  normalize_rows(ctx, limits_, "add_rmsnorm_forward", y, sum, rrms, x, residual, w, eps);
}

int64_t GpuBackend::rmsnorm_backward_workspace_bytes(const Context&, int64_t channels) const {
  const auto teams = [&](auto width) {
    const Teams by_width(channels / width(), kHeld<width()>, kBackwardThreads);
    return by_width.blocks(limits_, kBackwardRoom) * by_width.per_block();
  };
  const int64_t most =
      std::max({teams(std::integral_constant<int, 1>()), teams(std::integral_constant<int, kWidest<float>>()),
                teams(std::integral_constant<int, kWidest<Bf16>>())});
  return element_count({most, channels, static_cast<int64_t>(sizeof(float))});
}

void GpuBackend::rmsnorm_backward(Context& ctx, Tensor dx, Tensor dw, ConstTensor dy, ConstTensor x, ConstTensor w,
                                  ConstTensor rrms, ConstTensor dresidual) {
  constexpr const char* kName = "rmsnorm_backward";
  const int64_t rows = x.dim(0), channels = x.dim(1);
  const bool vectors = takes_vectors(dx, dy, x, w) && (dresidual.empty() || takes_vectors(dresidual));
  with_element(x.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kWidest<T>>(vectors, [&](auto width) {
      const Teams teams(channels / width(), kHeld<width()>, kBackwardThreads);
      const Launch at(ctx, kName, teams.grid(limits_, kBackwardRoom, rows), teams.threads, kTeamShared);
      const int64_t count = std::min(rows, at.grid.x * teams.per_block());
      const auto parts = workspace<float>(ctx, 0, count * channels);
      with_flag(teams.are_warps, [&](auto are_warps) {
        launch(at, backward<T, width(), are_warps()>, global<T>(dx), parts, global<T>(dy), global<T>(x), global<T>(w),
               global<float>(rrms), global<T>(dresidual), !dresidual.empty(), rows, channels);
      });
      const int threads = static_cast<int>(std::min<int64_t>(count * kWarp, kPartThreads));
      launch(Launch(ctx, kName, {(channels + kWarp - 1) / kWarp}, threads, shared_bytes<float>(threads)), add_parts,
             global<float>(dw), parts, count, channels);
    });
  });
}

}  // namespace skippipe::SKP_GPU
