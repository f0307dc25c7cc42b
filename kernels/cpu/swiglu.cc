#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"

namespace skippipe::cpu {

void CpuBackend::swiglu_forward(Context& ctx, Tensor y, ConstTensor gate, ConstTensor up) {
  const int64_t columns = gate.dim(1);
  parallel_ranges(ctx.threads, gate.dim(0), row_grain(columns), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* g = gate.as<float>() + n * gate.stride(0);
      const float* u = up.as<float>() + n * up.stride(0);
      float* out = y.as<float>() + n * y.stride(0);
#pragma omp simd
      for (int64_t f = 0; f < columns; ++f) out[f] = g[f] / (1.0f + exp_lane(-g[f])) * u[f];
    }
  });
}

void CpuBackend::swiglu_backward(Context& ctx, Tensor dgate, Tensor dup, ConstTensor dy, ConstTensor gate,
                                 ConstTensor up) {
  const int64_t columns = gate.dim(1);
  parallel_ranges(ctx.threads, gate.dim(0), row_grain(columns), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* g = gate.as<float>() + n * gate.stride(0);
      const float* u = up.as<float>() + n * up.stride(0);
      const float* d = dy.as<float>() + n * dy.stride(0);
      float* dg = dgate.as<float>() + n * dgate.stride(0);
      float* du = dup.as<float>() + n * dup.stride(0);
#pragma omp simd
      for (int64_t f = 0; f < columns; ++f) {
        const float sigmoid = 1.0f / (1.0f + exp_lane(-g[f]));
        const float silu = g[f] * sigmoid;
        const float dsilu = sigmoid + silu * (1.0f - sigmoid);
        const float up_value = u[f], d_value = d[f];  // dup may be up, dgate may be gate
        dg[f] = d_value * up_value * dsilu;
        du[f] = d_value * silu;
      }
    }
  });
}

}  // namespace skippipe::cpu
