#include <algorithm>

#include "kernels/adamw_scalars.h"
#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"

namespace skippipe::cpu {
namespace {

void step_elements(float* w, float* m, float* v, const float* grad, int64_t count, const AdamWScalars& to, float keep) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) adamw_element(w[i], m[i], v[i], grad[i], to, keep);
}

}  // namespace

void CpuBackend::adamw_step(Context& ctx, Tensor w, Tensor m, Tensor v, ConstTensor grad, const AdamWStep& step) {
  const AdamWScalars scalars(step);
  parallel_ranges(ctx.threads, w.elements(), kElementGrain, [&](int64_t begin, int64_t end) {
    const auto step_range = [&](int64_t first, int64_t last, float keep) {
      if (first < last)
        step_elements(w.as<float>() + first, m.as<float>() + first, v.as<float>() + first, grad.as<float>() + first,
                      last - first, scalars, keep);
    };
    step_range(begin, std::min(end, step.decayed), scalars.keep);
    step_range(std::max(begin, step.decayed), end, 1.0f);
  });
}

}  // namespace skippipe::cpu
