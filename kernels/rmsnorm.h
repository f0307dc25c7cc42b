#pragma once

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// y[n,c] = x[n,c] * rrms[n] * w[c],  rrms[n] = 1/sqrt(mean_c(x[n,c]^2) + eps)
// Source:  Zhang & Sennrich 2019, arXiv:1910.07467.
// Shapes:  x,y (N,C); w (C); rrms (N), saved for backward. Row-major, contiguous.
// Dtypes:  x,y,w one of f32, bf16; rrms f32; sums in f32.
// Alias:   y may be x.                 Memory: allocates nothing.
// Errors:  ShapeError, DtypeError, before any work is queued.
// Async:   queued on ctx's stream.     Deterministic: bitwise.
void rmsnorm_forward(Context& ctx, Tensor y, Tensor rrms, ConstTensor x, ConstTensor w, float eps);

// sum = x + residual, then y = rmsnorm(sum). sum (N,C) may be x or residual.
void add_rmsnorm_forward(Context& ctx, Tensor y, Tensor sum, Tensor rrms, ConstTensor x, ConstTensor residual,
                         ConstTensor w, float eps);

// dx[n,c] = rrms[n] * (w[c] dy[n,c] - x[n,c] rrms[n]^2 mean_c(w dy x)) + dresidual[n,c];  dw[c] += sum_n dy x rrms
// x is the input that forward normalized (`sum` for the fused form). dresidual may be empty (then nothing is added),
// and may be dx; dy may be dx. dw f32; on a GPU the order of its sum depends on the number of multiprocessors.
// Scratch: rmsnorm_backward_workspace_bytes.
void rmsnorm_backward(Context& ctx, Tensor dx, Tensor dw, ConstTensor dy, ConstTensor x, ConstTensor w,
                      ConstTensor rrms, ConstTensor dresidual);
int64_t rmsnorm_backward_workspace_bytes(const Context& ctx, int64_t channels);

}  // namespace skippipe
