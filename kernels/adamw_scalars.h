// An AdamW step of one element, the same to the last bit on every device, so that replicas on unlike devices keep equal
// weights.
#pragma once

#include <cmath>

#include "kernels/adamw.h"

namespace skippipe {

// What all elements share, computed in f64 and rounded once.
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

// With g = grad_scale * grad:  m += take1 (g - m);  v = beta2 v + take2 g^2;
// w = keep w - step_size * m / (sqrt(v) / root_correction + eps), where keep is 1 for elements that do not decay.
// The order of operations is that of torch.optim.AdamW. Every product that is added to something is in an fma, so that
// no compiler has a choice. (A template, because nvcc then compiles it for the device, too.)
template <typename Real>
constexpr void adamw_element(Real& w, Real& m, Real& v, Real grad, const AdamWScalars& to, Real keep) {
  const Real g = grad * to.grad_scale;
  m = std::fma(to.take1, std::fma(grad, to.grad_scale, -m), m);
  v = std::fma(v, to.beta2, to.take2 * g * g);
  w = std::fma(-to.step_size, m / (std::sqrt(v) / to.root_correction + to.eps), w * keep);
}

}  // namespace skippipe
