// What all elements of an AdamW step share, computed in f64 and rounded once.
#pragma once

#include <cmath>

#include "kernels/adamw.h"

namespace skippipe {

// With g = grad_scale * gradient:  m += take1 (g - m);  v = beta2 v + take2 g^2;
// w = keep w - step_size * m / (sqrt(v) / root_correction + eps), where keep is 1 for elements that do not decay.
// The order of operations is that of torch.optim.AdamW.
struct AdamWScalars {
  explicit AdamWScalars(const AdamWStep& step)
      : grad_scale(step.grad_scale),
        take1(static_cast<float>(1.0 - static_cast<double>(step.beta1))),
        beta2(step.beta2),
        take2(static_cast<float>(1.0 - static_cast<double>(step.beta2))),
        keep(static_cast<float>(1.0 - static_cast<double>(step.learning_rate) * step.weight_decay)),
        step_size(static_cast<float>(step.learning_rate / correction(step.beta1, step.step))),
        root_correction(static_cast<float>(std::sqrt(correction(step.beta2, step.step)))),
        eps(step.eps) {}

  float grad_scale, take1, beta2, take2, keep, step_size, root_correction, eps;

 private:
  static double correction(double beta, int64_t step) { return 1.0 - std::pow(beta, static_cast<double>(step)); }
};

}  // namespace skippipe
