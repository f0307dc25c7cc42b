#include <cmath>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"

namespace skippipe::cpu {

// The scalars are computed in f64 and rounded once, and the order of operations is that of torch.optim.AdamW.
void CpuBackend::adamw_step(Context& ctx, Tensor w, Tensor m, Tensor v, ConstTensor grad, const AdamWStep& step) {
  const double beta1 = step.beta1, beta2 = step.beta2;
  const double correction1 = 1.0 - std::pow(beta1, static_cast<double>(step.step));
  const double correction2 = 1.0 - std::pow(beta2, static_cast<double>(step.step));
  const float keep = static_cast<float>(1.0 - static_cast<double>(step.learning_rate) * step.weight_decay);
  const float step_size = static_cast<float>(step.learning_rate / correction1);
  const float root_correction = static_cast<float>(std::sqrt(correction2));
  const float take1 = static_cast<float>(1.0 - beta1), take2 = static_cast<float>(1.0 - beta2);
  const float beta2_f = step.beta2, eps = step.eps, grad_scale = step.grad_scale;
  parallel_ranges(ctx.threads, w.elements(), kElementGrain, [&](int64_t begin, int64_t end) {
    float* weight = w.as<float>();
    float* mean = m.as<float>();
    float* square = v.as<float>();
    const float* gradient = grad.as<float>();
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const float g = gradient[i] * grad_scale;
      mean[i] += take1 * (g - mean[i]);
      square[i] = square[i] * beta2_f + take2 * g * g;
      weight[i] = weight[i] * keep - step_size * (mean[i] / (std::sqrt(square[i]) / root_correction + eps));
    }
  });
}

}  // namespace skippipe::cpu
