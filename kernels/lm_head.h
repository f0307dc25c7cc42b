#pragma once

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// The LM head and cross-entropy in one: logits are made, used and dropped a chunk of the vocabulary at a time, so that
// (N,V) is never stored.
//   logits[n,v] = h[n,:] . w[v,:];  lse[n] = log sum_v exp(logits[n,v]);  loss = sum_n (lse[n] - logits[n,targets[n]])
// A target of -1 is ignored: it adds nothing to the loss or to any gradient.
// Source:  online log-sum-exp as in Milakov & Gimelshein 2018, arXiv:1805.02867.
// Shapes:  h (N,C); w (V,C); targets (N) i32, -1 or in [0, V); loss (1) f32; lse (N) f32.  Contiguous.
// Dtypes:  h, w, dh one of f32, bf16; loss is summed in f64 and stored as f32.
// Errors:  ShapeError, DtypeError.     Deterministic: bitwise for a given number of threads, on a GPU for
//          a model of GPU.
// Scratch: lm_head_workspace_bytes.
void lm_head_loss_forward(Context& ctx, Tensor loss, Tensor lse, ConstTensor h, ConstTensor w, ConstTensor targets);
// With p = softmax(logits) and dlogits = scale * (p - onehot(targets)):  dh = dlogits w;  dw += dlogits^T h.  dw f32.
void lm_head_loss_backward(Context& ctx, Tensor dh, Tensor dw, ConstTensor h, ConstTensor w, ConstTensor targets,
                           ConstTensor lse, float scale);
// dtype: of h and w. What suffices for some rows suffices for fewer.
int64_t lm_head_workspace_bytes(const Context& ctx, int64_t rows, int64_t channels, int64_t vocabulary, Dtype dtype);

}  // namespace skippipe
