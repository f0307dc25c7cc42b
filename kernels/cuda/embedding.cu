#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/vectors.h"
#include "kernels/elements.h"

namespace skippipe::SKP_GPU {
namespace {

template <typename T, int kWidth>
SKP_KERNEL(kMapThreads, 4)
gather(Global<T> y, Global<const int32_t> tokens, Global<const T> w, int64_t rows, int64_t channels) {
  for_each_row_vector<kWidth, 4>(
      rows, channels, [&](int64_t n, int64_t c) { return w.template load_vec<kWidth>(tokens.load(n) * channels + c); },
      [&](int64_t n, int64_t c, const auto& loaded) { y.store_vec(n * channels + c, loaded); });
}

// The gradient. Each block takes the tokens of one bucket, and of their rows one range of columns: all that comes to an
// element meets in one block, which adds it up in the order of rows.
constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kTokensPerThread = 4;
constexpr int kChunk = kThreads * kTokensPerThread;  // of tokens that a block looks through at once
constexpr int kRowsAtOnce = 4;                       // whose loads are under way together

// Frequent tokens have neighbouring ids, often; a hash keeps them apart.
SKP_DEVICE int64_t bucket_of(int32_t token, int64_t buckets) {
  const uint32_t hash = static_cast<uint32_t>(token) * 2654435769u;  // Knuth's multiplicative hashing
  return static_cast<int64_t>(static_cast<uint64_t>(hash) * static_cast<uint64_t>(buckets) >> 32);
}

// The rows of a chunk whose tokens lie in the block's bucket, in order.
struct Found {
  Shared<int32_t> tokens, rows;  // rows of the chunk
  Shared<int32_t> counts;        // per group of 32 tokens
  int count = 0;

  SKP_DEVICE explicit Found(SharedMemory& memory)
      : tokens(memory.take<int32_t>(kChunk)), rows(memory.take<int32_t>(kChunk)), counts(memory.take<int32_t>(kWarp)) {}

  // With barriers for the block: what was done with the chunk before is over when this one's rows are known.
  SKP_DEVICE void look_through(Global<const int32_t> all, int64_t begin, int64_t end, int64_t bucket, int64_t buckets) {
    static_assert(kChunk == kWarp * kWarp, "as many groups as lanes");
    int32_t token[kTokensPerThread];
    uint32_t chosen[kTokensPerThread];
    SKP_UNROLL
    for (int j = 0; j < kTokensPerThread; ++j) {
      const int64_t n = begin + j * kThreads + thread_index();
      token[j] = n < end ? all.load(n) : -1;
    }
    SKP_UNROLL
    for (int j = 0; j < kTokensPerThread; ++j) {
      chosen[j] = ballot(token[j] >= 0 && bucket_of(token[j], buckets) == bucket);
      if (lane_index() == 0) counts.store(j * kWarps + warp_index(), count_bits(chosen[j]));
    }
    block_sync();
    const int mine = counts.load(lane_index());
    const int up_to_mine = warp_prefix_sum(mine);
    count = shuffle(up_to_mine, kWarp - 1);
    SKP_UNROLL
    for (int j = 0; j < kTokensPerThread; ++j) {
      const int before = shuffle(up_to_mine - mine, j * kWarps + warp_index());
      if ((chosen[j] >> lane_index() & 1) != 0) {
        const int at = before + count_bits(chosen[j] & ((1u << lane_index()) - 1));
        tokens.store(at, token[j]);
        rows.store(at, j * kThreads + thread_index());
      }
    }
    block_sync();
  }

  // Bit l: found[from + l] is this token.
  SKP_DEVICE uint32_t matches(int32_t token, int from) const {
    const int i = from + lane_index();
    return ballot(i < count && tokens.load(i) == token);
  }
  SKP_DEVICE bool is_first(int i) const {
    const int32_t token = tokens.load(i);
    int from = 0;
    uint32_t same = matches(token, from);
    while (same == 0) same = matches(token, from += kWarp);
    return from + lowest_bit(same) == i;
  }
};

template <typename T, int kWidth>
SKP_KERNEL(kThreads, 4)
scatter(Global<float> dw, Global<const T> dy, Global<const int32_t> tokens, int64_t rows, int64_t channels,
        int64_t buckets) {
  SharedMemory memory;
  Found found(memory);
  const int64_t bucket = block_x() % buckets, range = block_x() / buckets;
  const int64_t column = (range * kWarp + lane_index()) * kWidth;
  const bool inside = column < channels;
  for (int64_t begin = 0; begin < rows; begin += kChunk) {
    found.look_through(tokens, begin, rows, bucket, buckets);
    // Each warp takes every kWarps-th of those found, and with a token's first all of its rows.
    for (int i = warp_index(); i < found.count; i += kWarps) {
      if (!found.is_first(i)) continue;
      const int32_t token = found.tokens.load(i);
      auto sum = inside ? dw.load_vec<kWidth>(token * channels + column) : Vec<float, kWidth>{};
      for (int from = i; from < found.count; from += kWarp) {
        uint32_t same = found.matches(token, from);
        while (same != 0) {
          Vec<T, kWidth> terms[kRowsAtOnce]{};
          SKP_UNROLL
          for (int j = 0; j < kRowsAtOnce; ++j)
            if (same != 0) {
              const int64_t n = begin + found.rows.load(from + lowest_bit(same));
              if (inside) terms[j] = dy.template load_vec<kWidth>(n * channels + column);
              same &= same - 1;
            }
          SKP_UNROLL
          for (int j = 0; j < kRowsAtOnce; ++j) {
            const auto term = widen(terms[j]);
            SKP_UNROLL
            for (int k = 0; k < kWidth; ++k) sum.values[k] += term.values[k];
          }
        }
      }
      if (inside) dw.store_vec(token * channels + column, sum);
    }
  }
}

}  // namespace

void GpuBackend::embedding_forward(Context& ctx, Tensor y, ConstTensor tokens, ConstTensor w) {
  const int64_t rows = y.dim(0), channels = y.dim(1);
  with_element(y.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kWidest<T>>(takes_vectors(y, w), [&](auto width) {
      launch(Launch(ctx, "embedding_forward", grid_for(limits_, rows * channels / width()), kMapThreads),
             gather<T, width()>, global<T>(y), global<int32_t>(tokens), global<T>(w), rows, channels);
    });
  });
}

void GpuBackend::embedding_backward(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor tokens) {
  const int64_t rows = dy.dim(0), channels = dy.dim(1);
  constexpr int64_t kShared = 2 * shared_bytes<int32_t>(kChunk) + shared_bytes<int32_t>(kWarp);
  constexpr int kMost = 4;  // 16 bytes of f32, 8 of bf16
  with_element(dy.dtype(), [&](auto element) {
    using T = decltype(element);
    with_width<kMost>(takes_vectors(dw, dy), [&](auto width) {
      const int64_t ranges = (channels + kWarp * width() - 1) / (kWarp * width());
      const int64_t buckets = std::clamp<int64_t>(limits_.multiprocessors * 8 / ranges, 1, dw.dim(0));
      launch(Launch(ctx, "embedding_backward", {buckets * ranges}, kThreads, kShared), scatter<T, width()>,
             global<float>(dw), global<T>(dy), global<int32_t>(tokens), rows, channels, buckets);
    });
  });
}

}  // namespace skippipe::SKP_GPU
