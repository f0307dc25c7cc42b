// Rows are taken in blocks and the vocabulary in chunks; one block's logits for one chunk are all that exists at a
// time, and few enough that the L2 cache still holds them when the kernel behind the product reads them.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/reduce.h"
#include "kernels/elements.h"
#include "kernels/lm_head.h"
#include "kernels/lm_head_chunks.h"

namespace skippipe::SKP_GPU {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kLossThreads = 1024;
constexpr int kWidth = 4;  // 16 bytes of logits
constexpr int kBatch = 2;  // vectors that a thread reads before it computes
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr float kNone = -std::numeric_limits<float>::infinity();  // a logit that isn't there

// ---------------------------------------------------------------------------------------------------- kernels

// One block's logits for one chunk as a kernel sees them. Rows lie `stride` apart, a multiple of kWidth, so that a
// row's last vector may be read and written in full.
struct Chunk {
  int64_t first_row, first_column, stride;
  int columns;
};

// Per row, through the chunks: the greatest logit so far, the sum of exp(logit - max), and the target's logit.
struct alignas(16) RowState {
  float max, sum, target, unused;
};

// map(first column, logits) for each of the row's vectors whose turn is this thread's, kBatch of them read at once.
template <typename Map>
SKP_DEVICE void for_each_batch(Global<const float> logits, int columns, const Map& map) {
  for (int begin = thread_index() * kWidth; begin < columns; begin += kBatch * kThreads * kWidth) {
    Vec<float, kWidth> batch[kBatch];
    SKP_UNROLL
    for (int j = 0; j < kBatch; ++j) {
      const int i = begin + j * kThreads * kWidth;
      batch[j] = i < columns ? logits.load_vec<kWidth>(i) : Vec<float, kWidth>{};
    }
    SKP_UNROLL
    for (int j = 0; j < kBatch; ++j) {
      SKP_UNROLL
      for (int k = 0; k < kWidth; ++k)
        if (begin + j * kThreads * kWidth + k >= columns) batch[j].values[k] = kNone;
    }
    map(begin, batch);
  }
}

template <int kLanes>
SKP_DEVICE void merge_lanes(float& max, float& sum) {
  const float top = warp_max<kLanes>(max);
  sum = warp_sum<kLanes>(sum * fast_exp(max - top));
  max = top;
}

// A block per row takes the row's logits into its state.
SKP_KERNEL(kThreads, 8)
take_chunk(Global<RowState> states, Global<const float> logits, Global<const int32_t> targets, Chunk chunk) {
  SharedMemory memory;
  const Shared<float> maxima = memory.take<float>(kWarps), sums = memory.take<float>(kWarps);
  const int64_t row = chunk.first_row + block_x();
  const auto mine = logits + block_x() * chunk.stride;
  RowState state{kLowest, 0, 0, 0};
  if (thread_index() == 0) {
    if (chunk.first_column > 0) state = states.load(row);
    const int64_t own = targets.load(row) - chunk.first_column;
    if (own >= 0 && own < chunk.columns) state.target = mine.load(own);
  }
  float max = kLowest, sum = 0;
  for_each_batch(mine, chunk.columns, [&](int, const auto& batch) {
    float top = max;
    SKP_UNROLL
    for (const auto& vector : batch) {
      SKP_UNROLL
      for (const float logit : vector.values) top = fmaxf(top, logit);
    }
    sum *= fast_exp(max - top);
    max = top;
    SKP_UNROLL
    for (const auto& vector : batch) {
      SKP_UNROLL
      for (const float logit : vector.values) sum += fast_exp(logit - top);
    }
  });
  merge_lanes<kWarp>(max, sum);
  if (lane_index() == 0) {
    maxima.store(warp_index(), max);
    sums.store(warp_index(), sum);
  }
  block_sync();
  if (warp_index() > 0) return;
  max = maxima.load(lane_index() % kWarps);
  sum = sums.load(lane_index() % kWarps);
  merge_lanes<kWarps>(max, sum);
  if (thread_index() > 0) return;
  const float top = fmaxf(max, state.max);
  state.sum = state.sum * fast_exp(state.max - top) + sum * fast_exp(max - top);
  state.max = top;
  states.store(row, state);
}

// One block: the order of the sum depends on the number of rows alone.
SKP_KERNEL(kLossThreads, 1)
sum_loss(Global<float> loss, Global<float> lse, Global<const RowState> states, Global<const int32_t> targets,
         int64_t rows) {
  SharedMemory memory;
  const Shared<double> scratch = memory.take<double>(kWarp);
  double sum = 0;
  for (int64_t n = thread_index(); n < rows; n += block_threads()) {
    const RowState state = states.load(n);
    const double row_lse = static_cast<double>(state.max) + log(static_cast<double>(state.sum));
    lse.store(n, static_cast<float>(row_lse));
    if (targets.load(n) >= 0) sum += row_lse - static_cast<double>(state.target);
  }
  sum = block_sum(sum, scratch);
  if (thread_index() == 0) loss.store(0, static_cast<float>(sum));
}

// A block per row. The gradients may lie where the logits do, if they are f32: every thread writes what it read.
template <typename T>
SKP_KERNEL(kThreads, 8)
differentiate(Global<T> gradients, Global<const float> logits, Global<const int32_t> targets, Global<const float> lse,
              float scale, Chunk chunk) {
  const int64_t row = chunk.first_row + block_x();
  const auto to = gradients + block_x() * chunk.stride;
  const int32_t target = targets.load(row);
  if (target < 0) {
    for (int i = thread_index() * kWidth; i < chunk.columns; i += kThreads * kWidth) to.store_vec(i, Vec<T, kWidth>{});
    return;
  }
  const int64_t own = target - chunk.first_column;
  const float row_lse = lse.load(row);
  for_each_batch(logits + block_x() * chunk.stride, chunk.columns, [&](int begin, auto& batch) {
    SKP_UNROLL
    for (int j = 0; j < kBatch; ++j) {
      const int i = begin + j * kThreads * kWidth;
      if (i >= chunk.columns) break;
      SKP_UNROLL
      for (int k = 0; k < kWidth; ++k) {
        const float p = scale * fast_exp(batch[j].values[k] - row_lse);
        batch[j].values[k] = i + k == own ? p - scale : p;
      }
      to.store_vec(i, narrow<T>(batch[j]));
    }
  });
}

// ---------------------------------------------------------------------------------------------------- chunks

constexpr int64_t kTileRows = 128, kTileColumns = 256;  // of the libraries' products on large devices
constexpr int64_t kTile = kTileRows * kTileColumns;
constexpr int64_t kAlignment = 64;  // of rows in elements, and of buffers in bytes

int64_t aligned(int64_t n) { return divide_up(n, kAlignment) * kAlignment; }

// What a chunk is, and where in the workspace what lies (offsets in bytes): logits; behind them in forward the states
// of all rows, in backward a chunk's gradients in h's dtype and a block's dh where that is summed in f32 and rounded
// once. Nothing gets smaller with more rows.
struct Layout {
  Layout(const cuda::DeviceLimits& limits, int64_t rows, int64_t channels, int64_t vocabulary, Dtype dtype) {
    constexpr auto kFloatBytes = static_cast<int64_t>(sizeof(float));
    // As many logits as half of the L2 cache holds, but whole waves of tiles, so that the products keep all
    // multiprocessors busy to their end. Nearly square: in backward each block of rows reads and writes all of dw, and
    // each chunk all of its block's dh.
    const int64_t waves = std::max<int64_t>(1, limits.l2_bytes / 2 / (kTile * kFloatBytes) / limits.multiprocessors);
    const int64_t tiles = waves * limits.multiprocessors;
    const int64_t high = std::max<int64_t>(1, divide_up(rows, kTileRows));
    const int64_t wide = std::max<int64_t>(1, divide_up(vocabulary, kTileColumns));
    const auto square = static_cast<int64_t>(std::sqrt(static_cast<double>(tiles * kTileColumns / kTileRows)));
    const int64_t most_high = std::max(square, tiles / wide);
    const int64_t block_high = divide_up(high, divide_up(high, most_high));  // blocks of much the same size
    most = {block_high * kTileRows, tiles / block_high * kTileColumns};
    stride = aligned(std::min(most.columns, vocabulary));
    logits = std::min(tiles * kTile, element_count({rows, aligned(vocabulary)}));

    const bool is_f32 = dtype == Dtype::kF32;
    states = logits * kFloatBytes;
    gradients = is_f32 ? 0 : states;
    sums = is_f32 ? states : gradients + logits * dtype_bytes(dtype);
    const int64_t state_bytes = element_count({rows, static_cast<int64_t>(sizeof(RowState))});
    const int64_t sum_bytes =
        is_f32 ? 0 : element_count({std::min(rows, most_high * kTileRows), channels, kFloatBytes});
    bytes = std::max(states + state_bytes, sums + sum_bytes);
  }

  ChunkShape most;
  int64_t stride;  // of a chunk's rows, in elements
  int64_t logits;  // room for so many
  int64_t states, gradients, sums, bytes;
};

// Of both passes: a chunk's logits are made, then body(rows, chunk, the chunk as kernels see it) uses them.
template <typename Body>
void with_logits(Context& ctx, cuda::MatrixProducts& products, const Layout& layout, const ConstTensor& h,
                 const ConstTensor& w, const Body& body) {
  for_each_chunk(h.dim(0), w.dim(0), layout.most, [&](Range rows, Range columns) {
    const Matrix logits{ctx.workspace.data(), Dtype::kF32, rows.count, columns.count, layout.stride, 1};
    products.multiply(ctx, logits, matrix_rows(h, rows), matrix_rows(w, columns).transposed(), false);
    body(rows, columns, Chunk{rows.begin, columns.begin, layout.stride, static_cast<int>(columns.count)});
  });
}

}  // namespace

int64_t GpuBackend::lm_head_workspace_bytes(const Context&, int64_t rows, int64_t channels, int64_t vocabulary,
                                            Dtype dtype) const {
  return Layout(limits_, rows, channels, vocabulary, dtype).bytes;
}

void GpuBackend::lm_head_loss_forward(Context& ctx, Tensor loss, Tensor lse, ConstTensor h, ConstTensor w,
                                      ConstTensor targets) {
  const int64_t rows = h.dim(0);
  const Layout layout(limits_, rows, h.dim(1), w.dim(0), h.dtype());
  const auto logits = workspace<float>(ctx, 0, layout.logits);
  const auto states = workspace<RowState>(ctx, layout.states, rows);
  const auto target = global<int32_t>(targets);
  with_logits(ctx, *products_, layout, h, w, [&](Range block, Range, const Chunk& chunk) {
    constexpr int64_t kShared = 2 * shared_bytes<float>(kWarps);
    launch(Launch(ctx, "lm_head_loss_forward", {block.count}, kThreads, kShared), take_chunk, states, logits, target,
           chunk);
  });
  launch(Launch(ctx, "lm_head_loss_forward", {1}, kLossThreads, shared_bytes<double>(kWarp)), sum_loss,
         global<float>(loss), global<float>(lse), states, target, rows);
}

void GpuBackend::lm_head_loss_backward(Context& ctx, Tensor dh, Tensor dw, ConstTensor h, ConstTensor w,
                                       ConstTensor targets, ConstTensor lse, float scale) {
  const int64_t channels = h.dim(1), vocabulary = w.dim(0);
  const Layout layout(limits_, h.dim(0), channels, vocabulary, h.dtype());
  std::byte* const memory = ctx.workspace.data();
  with_element(h.dtype(), [&](auto element) {
    using T = decltype(element);
    constexpr bool kSumApart = !std::is_same_v<T, float>;
    const auto logits = workspace<float>(ctx, 0, layout.logits);
    const auto gradients = workspace<T>(ctx, layout.gradients, layout.logits);
    with_logits(ctx, *products_, layout, h, w, [&](Range block, Range columns, const Chunk& chunk) {
      launch(Launch(ctx, "lm_head_loss_backward", {block.count}, kThreads), differentiate<T>, gradients, logits,
             global<int32_t>(targets), global<float>(lse), scale, chunk);
      const ConstMatrix dlogits{memory + layout.gradients, h.dtype(), block.count, columns.count, layout.stride, 1};
      const Tensor dh_block = dh.slice(0, block.begin, block.count);
      const Tensor sums(memory + layout.sums, {block.count, channels}, Dtype::kF32, Device::kCuda);
      products_->multiply(ctx, matrix_rows(kSumApart ? sums : dh_block, 0, block.count), dlogits,
                          matrix_rows(w, columns), columns.begin > 0);
      products_->multiply(ctx, matrix_rows(dw, columns), dlogits.transposed(), matrix_rows(h, block), true);
      if (kSumApart && columns.begin + columns.count == vocabulary) cast(ctx, dh_block, sums);
    });
  });
}

}  // namespace skippipe::SKP_GPU
