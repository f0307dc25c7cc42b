#include <algorithm>

#include "kernels/attention.h"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/memory.h"

namespace skippipe::SKP_GPU {
namespace {

// Bulk copies take rows of whole vectors, and the tiles of longer heads do not fit.
bool takes_hopper(const cuda::DeviceLimits& limits, std::initializer_list<ConstTensor> all) {
  return limits.hopper && std::all_of(all.begin(), all.end(), [](const ConstTensor& x) {
           return x.dtype() == Dtype::kBf16 && x.dim(3) <= kMaxHopperHeadDim && takes_vectors(x);
         });
}

}  // namespace

int64_t GpuBackend::attention_workspace_bytes(const Context&, int64_t batch, int64_t tokens, int64_t heads,
                                              int64_t kv_heads, int64_t head_dim) const {
  if (head_dim > kMaxHeadDim) skippipe::internal::fail_head_dim(head_dim, kMaxHeadDim);
  const int64_t own = attention_delta_bytes(batch, tokens, heads);
  return attention_ ? std::max(own, attention_->workspace_bytes({batch, tokens, heads, kv_heads, head_dim})) : own;
}

void GpuBackend::attention_forward(Context& ctx, Tensor y, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                                   float scale) {
  if (attention_ && attention_->forward(ctx, y, lse, q, k, v, scale)) return;
  if (takes_hopper(limits_, {y, q, k, v}))
    attention_forward_hopper(ctx, limits_, y, lse, q, k, v, scale);
  else if (q.dtype() == Dtype::kBf16)
    attention_forward_bf16(ctx, limits_, y, lse, q, k, v, scale);
  else
    attention_forward_f32(ctx, limits_, y, lse, q, k, v, scale);
}

void GpuBackend::attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy, ConstTensor q,
                                    ConstTensor k, ConstTensor v, ConstTensor y, ConstTensor lse, float scale) {
  if (attention_ && attention_->backward(ctx, dq, dk, dv, dy, q, k, v, y, lse, scale)) return;
  if (takes_hopper(limits_, {dq, dk, dv, dy, q, k, v}))
    attention_backward_hopper(ctx, limits_, dq, dk, dv, dy, q, k, v, y, lse, scale);
  else if (q.dtype() == Dtype::kBf16)
    attention_backward_bf16(ctx, limits_, dq, dk, dv, dy, q, k, v, y, lse, scale);
  else
    attention_backward_f32(ctx, limits_, dq, dk, dv, dy, q, k, v, y, lse, scale);
}

}  // namespace skippipe::SKP_GPU
