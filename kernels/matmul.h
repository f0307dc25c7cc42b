#pragma once

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// The three products of a linear layer without bias. Weights are stored as Hugging Face stores them: (outputs, inputs).
// Shapes:  x (N,I); w (O,I); y (N,O). x, dx, y and dy may have a row stride larger than their width; w, dw contiguous.
// Dtypes:  f32 or bf16 for x, w, y; dw f32; sums in f32.
// Alias:   no.                         Memory: allocates nothing after the first call with a shape.
// Errors:  ShapeError, DtypeError, before any work is queued.
// Deterministic: bitwise for a given number of threads.

// y = x w^T
void linear_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w);
// dx = dy w, or dx += dy w
void linear_backward_input(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor w, bool accumulate = false);
// dw += dy^T x
void linear_backward_weight(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x);

}  // namespace skippipe
