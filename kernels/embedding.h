#pragma once

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// y[n,c] = w[tokens[n],c]
// Shapes:  y (N,C); tokens (N); w (V,C). Contiguous.
// Dtypes:  tokens i32; y, w one of f32, bf16.
// Errors:  ShapeError, DtypeError. Token ids must lie in [0, V): whoever reads data checks (engine/data).
// Deterministic: bitwise.
void embedding_forward(Context& ctx, Tensor y, ConstTensor tokens, ConstTensor w);
// dw[tokens[n],c] += dy[n,c]; rows are summed in the order of n. dw f32.
void embedding_backward(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor tokens);

}  // namespace skippipe
