#pragma once

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// Rotary position embedding in Hugging Face's half-split layout: channel pairs (d, d + D/2) are rotated by the angle
// of their token's position and d. In place, on any columns of a buffer: so q and k, which lie side by side in the
// product that makes q, k and v, are rotated by one call, as heads of one view.
// Source:  Su et al. 2021, arXiv:2104.09864.
// Shapes:  x (B,T,H,D), D even, strides free but the last must be 1; cos, sin (T,D/2) contiguous.
// Dtypes:  x f32 or bf16; cos, sin f32.
// Errors:  ShapeError, DtypeError.     Deterministic: bitwise.
void rope_forward(Context& ctx, Tensor x, ConstTensor cos, ConstTensor sin);
// The transpose: rotates by the negative angle. dx in place.
void rope_backward(Context& ctx, Tensor dx, ConstTensor cos, ConstTensor sin);

}  // namespace skippipe
