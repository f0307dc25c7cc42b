#pragma once

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// Simple maps and sums over contiguous tensors. ShapeError and DtypeError before any work is queued; bitwise
// deterministic (squared_norm: for a given number of threads).

// x = 0 in every element; any dtype.
void fill_zero(Context& ctx, Tensor x);
// y = x between f32 and bf16 (round to nearest even), or a copy where the dtypes are equal.
void cast(Context& ctx, Tensor y, ConstTensor x);
// y = a + b; f32 or bf16; y may be a or b.
void add(Context& ctx, Tensor y, ConstTensor a, ConstTensor b);
// y += scale * x; y f32, x f32 or bf16.
void accumulate(Context& ctx, Tensor y, ConstTensor x, float scale);
// sum (1) f32 = sum_i x_i^2, summed in f64; x f32.
// Scratch: squared_norm_workspace_bytes.
void squared_norm(Context& ctx, Tensor sum, ConstTensor x);
int64_t squared_norm_workspace_bytes(const Context& ctx);

}  // namespace skippipe
