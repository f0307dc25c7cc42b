#pragma once

#include <limits>

#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

struct AdamWStep {
  float learning_rate = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float eps = 1e-8f;
  float weight_decay = 0;  // decoupled: w -= learning_rate * weight_decay * w
  float grad_scale = 1;    // multiplies the gradient first (mean over microbatches, clipping)
  int64_t step = 1;        // from 1, for the bias correction
  // Only the first so many elements decay; what does not (norms) lies behind them, so that one step takes a whole slab.
  int64_t decayed = std::numeric_limits<int64_t>::max();
};

// One AdamW step: m = beta1 m + (1-beta1) g; v = beta2 v + (1-beta2) g^2; with m^ = m/(1-beta1^step) and
// v^ = v/(1-beta2^step):  w -= learning_rate * (m^ / (sqrt(v^) + eps) + weight_decay w).
// Source:  Loshchilov & Hutter 2019, arXiv:1711.05101; rounding follows torch.optim.AdamW.
// Shapes:  all equal, contiguous.      Dtypes: f32.
// Errors:  ShapeError, DtypeError.     Deterministic: bitwise.
void adamw_step(Context& ctx, Tensor w, Tensor m, Tensor v, ConstTensor grad, const AdamWStep& step);

}  // namespace skippipe
