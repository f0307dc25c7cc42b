#pragma once

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// Causal grouped-query attention of the last Tq tokens of a sequence to all S of them, whose keys and values were kept:
//   y[t,h,:] = sum_{s<=S-Tq+t} softmax_s(scale * q[t,h,:] . k[s,g,:]) v[s,g,:],  g = h / (H/K)
// Threads share heads, queries and parts of the keys, so that one query of a long sequence occupies all of them.
// Source:  Dao et al. 2022, arXiv:2205.14135; parts of the keys: Dao et al. 2023, "Flash-Decoding".
// Shapes:  q, y (Tq,H,D); k, v (S,K,D), S >= Tq, H a multiple of K. Strides are free but the last must be 1.
// Dtypes:  f32.                        Alias: no.
// Limits:  D up to 256 on a GPU.
// Errors:  ShapeError, DtypeError.     Deterministic: bitwise.
// Scratch: attention_cached_workspace_bytes.
void attention_cached_forward(Context& ctx, Tensor y, ConstTensor q, ConstTensor k, ConstTensor v, float scale);
// Enough for so many queries or fewer, and any number of positions.
int64_t attention_cached_workspace_bytes(const Context& ctx, int64_t queries, int64_t heads, int64_t kv_heads,
                                         int64_t head_dim);

}  // namespace skippipe
