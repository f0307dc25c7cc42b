#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"
#include "kernels/elements.h"

namespace skippipe::cpu {

void CpuBackend::swiglu_forward(Context& ctx, Tensor y, ConstTensor gate, ConstTensor up) {
  const int64_t columns = gate.dim(1);
  with_element(gate.dtype(), [&](auto element) {
    using Element = decltype(element);
    parallel_ranges(ctx.threads, gate.dim(0), row_grain(columns), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const Element* g = gate.as<Element>() + n * gate.stride(0);
        const Element* u = up.as<Element>() + n * up.stride(0);
        Element* out = y.as<Element>() + n * y.stride(0);
        for_each_vec(columns, [&](int64_t f, auto access) {
          const Vec x = access.load(g + f);
          access.store(out + f, x / (1.0f + exp(-x)) * access.load(u + f));
        });
      }
    });
  });
}

void CpuBackend::swiglu_backward(Context& ctx, Tensor dgate, Tensor dup, ConstTensor dy, ConstTensor gate,
                                 ConstTensor up) {
  const int64_t columns = gate.dim(1);
  with_element(gate.dtype(), [&](auto element) {
    using Element = decltype(element);
    parallel_ranges(ctx.threads, gate.dim(0), row_grain(columns), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const Element* g = gate.as<Element>() + n * gate.stride(0);
        const Element* u = up.as<Element>() + n * up.stride(0);
        const Element* dy_row = dy.as<Element>() + n * dy.stride(0);
        Element* dg = dgate.as<Element>() + n * dgate.stride(0);
        Element* du = dup.as<Element>() + n * dup.stride(0);
        for_each_vec(columns, [&](int64_t f, auto access) {
          const Vec x = access.load(g + f), d = access.load(dy_row + f), u_value = access.load(u + f);
          const Vec sigmoid = 1.0f / (1.0f + exp(-x));
          const Vec silu = x * sigmoid;
          // All reads are done: dgate may be gate, and dup may be up.
          access.store(dg + f, d * u_value * (sigmoid + silu * (1.0f - sigmoid)));
          access.store(du + f, d * silu);
        });
      }
    });
  });
}

}  // namespace skippipe::cpu
