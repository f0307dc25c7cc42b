#pragma once

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// y = silu(gate) * up,  silu(x) = x / (1 + exp(-x))
// Source:  Shazeer 2020, arXiv:2002.05202.
// Shapes:  gate, up, y (N,F); row strides are free (gate and up may be columns of one buffer).
// Dtypes:  one of f32, bf16 for all.   Errors: ShapeError, DtypeError.   Deterministic: bitwise.
void swiglu_forward(Context& ctx, Tensor y, ConstTensor gate, ConstTensor up);
// dgate = dy * up * silu'(gate), dup = dy * silu(gate). dgate may be gate and dup may be up.
void swiglu_backward(Context& ctx, Tensor dgate, Tensor dup, ConstTensor dy, ConstTensor gate, ConstTensor up);

}  // namespace skippipe
