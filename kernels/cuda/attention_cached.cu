// Attention to kept keys: the keys are cut into parts ("Flash-Decoding", Dao et al. 2023), so that one query of a long
// sequence fills the device; what the parts leave is put together by their log-sum-exps.
#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention_f32.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/reduce.h"

namespace skippipe::SKP_GPU {
namespace {

constexpr int kThreads = 128;
constexpr int kLaneElements = kMaxHeadDim / kWarp;
constexpr int64_t kFewestKeys = 64;  // in a part

// How the work is cut, which depends on shapes and the device only: into parts until there are so many blocks.
int64_t wanted_blocks(const cuda::DeviceLimits& limits) { return int64_t{2} * limits.multiprocessors; }
int rows_per_block(int64_t rows) { return rows <= kFewRowsF32 ? kFewRowsF32 : kManyRowsF32; }
int64_t parts_of(const cuda::DeviceLimits& limits, int64_t rows, int64_t kv_heads, int64_t keys) {
  const int64_t blocks = kv_heads * divide_up(rows, rows_per_block(rows));
  return std::max<int64_t>(1, std::min(wanted_blocks(limits) / blocks, keys / kFewestKeys));
}

// A row of y is the sum of the parts' rows, each weighted by exp(its log-sum-exp - that of all). A warp takes a row.
SKP_KERNEL(kThreads, 4)
combine(Global<float> y, Global<const float> part_y, Global<const float> part_lse, int64_t token_stride,
        int64_t head_stride, int parts, int queries, int heads, int head_dim) {
  const int64_t rows = int64_t{queries} * heads, row = block_x() * (kThreads / kWarp) + warp_index();
  if (row >= rows) return;
  const int64_t t = row / heads, h = row % heads;
  const auto lse = [&](int part) { return part_lse.load((int64_t{part} * heads + h) * queries + t); };
  float top = lse(0);
  for (int part = lane_index(); part < parts; part += kWarp) top = std::max(top, lse(part));
  top = warp_max(top);
  float sum = 0, out[kLaneElements] = {};
  for (int part = 0; part < parts; ++part) {
    const float weight = fast_exp2((lse(part) - top) * kLog2E);
    sum += weight;
    SKP_UNROLL
    for (int i = 0; i < kLaneElements; ++i) {
      const int d = lane_index() + i * kWarp;
      if (d < head_dim) out[i] += weight * part_y.load((part * rows + row) * head_dim + d);
    }
  }
  SKP_UNROLL
  for (int i = 0; i < kLaneElements; ++i) {
    const int d = lane_index() + i * kWarp;
    if (d < head_dim) y.store(t * token_stride + h * head_stride + d, out[i] / sum);
  }
}

// x (T,H,D) as one sequence of a batch.
template <typename Void>
BasicTensor<Void> batch_of_one(const BasicTensor<Void>& x) {
  return {x.data(),
          {1, x.dim(0), x.dim(1), x.dim(2)},
          {x.dim(0) * x.stride(0), x.stride(0), x.stride(1), 1},
          x.dtype(),
          x.device()};
}

}  // namespace

// For what blocks leave of parts, each of its rows, or for the log-sum-exps of all rows where keys are in one part.
int64_t GpuBackend::attention_cached_workspace_bytes(const Context&, int64_t queries, int64_t heads, int64_t kv_heads,
                                                     int64_t head_dim) const {
  if (head_dim > kMaxHeadDim) skippipe::internal::fail_head_dim(head_dim, kMaxHeadDim);
  const int64_t rows = element_count({queries, heads / kv_heads});
  const int64_t part_rows = wanted_blocks(limits_) * std::min<int64_t>(rows, rows_per_block(rows));
  return element_count({queries, heads, 4}) + element_count({part_rows, head_dim + 1, 4});
}

void GpuBackend::attention_cached_forward(Context& ctx, Tensor y, ConstTensor q, ConstTensor k, ConstTensor v,
                                          float scale) {
  const int64_t queries = q.dim(0), heads = q.dim(1), head_dim = q.dim(2), rows = queries * heads / k.dim(1);
  const int64_t parts = parts_of(limits_, rows, k.dim(1), k.dim(0));
  const Tensor part_y(ctx.workspace.data(), {parts, queries, heads, head_dim}, Dtype::kF32, y.device());
  const Tensor part_lse(ctx.workspace.data() + (parts == 1 ? 0 : part_y.bytes()), {parts, heads, queries}, Dtype::kF32,
                        y.device());
  forward_f32(ctx, {parts == 1 ? batch_of_one(y) : part_y, part_lse, batch_of_one(q), batch_of_one(k), batch_of_one(v),
                    scale, rows_per_block(rows), static_cast<int>(parts)});
  if (parts == 1) return;
  const int64_t blocks = divide_up(queries * heads, kThreads / kWarp);
  launch(Launch(ctx, "attention_cached_forward", {blocks}, kThreads), combine, global<float>(y),
         global<float>(ConstTensor(part_y)), global<float>(ConstTensor(part_lse)), y.stride(0), y.stride(1), parts,
         queries, heads, head_dim);
}

}  // namespace skippipe::SKP_GPU
