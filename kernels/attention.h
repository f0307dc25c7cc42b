#pragma once

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// Causal grouped-query attention: query head h reads key/value head h / (H/K).
//   y[b,t,h,:] = sum_{s<=t} softmax_s(scale * q[b,t,h,:] . k[b,s,g,:]) v[b,s,g,:]
// Computed in tiles with a running maximum and sum; no T x T buffer.
// Source:  Dao et al. 2022, arXiv:2205.14135; Ainslie et al. 2023, arXiv:2305.13245.
// Shapes:  q, y (B,T,H,D); k, v (B,T,K,D), H a multiple of K; lse (B,H,T) contiguous, the log-sum-exp of the scaled
//          scores, saved for backward. Strides are free but the last must be 1 (q, k, v may be columns of one buffer).
// Dtypes:  q, k, v, y one of f32, bf16; lse f32; sums in f32.
// Limits:  scale > 0; D up to 256 on a GPU.
// Errors:  ShapeError, DtypeError.     Deterministic: bitwise for a given number of threads (cuDNN's: no).
// Scratch: attention_workspace_bytes.
void attention_forward(Context& ctx, Tensor y, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v, float scale);
// dq, dk, dv overwrite. Recomputes the probabilities from lse.
void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor y, ConstTensor lse, float scale);
// Enough for forward and backward of these shapes.
int64_t attention_workspace_bytes(const Context& ctx, int64_t batch, int64_t tokens, int64_t heads, int64_t kv_heads,
                                  int64_t head_dim);

// What backends that can't take a head throw. (Out of line: CUDA sources know no formatting library.)
namespace internal {
[[noreturn]] void fail_head_dim(int64_t head_dim, int64_t most);
}  // namespace internal

}  // namespace skippipe
