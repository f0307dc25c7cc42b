#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"
#include "kernels/elements.h"

namespace skippipe::cpu {
namespace {

// Rotates the pairs (x[d], x[d + half]) of one head; direction is 1, or -1 for the transpose.
template <typename Element>
void rotate(Element* x, const float* cos, const float* sin, float direction, int64_t half) {
  for_each_vec(half, [=](int64_t d, auto access) {
    const Vec first = access.load(x + d), second = access.load(x + d + half);
    const Vec c = access.load(cos + d), s = direction * access.load(sin + d);
    access.store(x + d, first * c - second * s);
    access.store(x + d + half, second * c + first * s);
  });
}

template <typename Element>
void rotate_all(const Context& ctx, const Tensor& x, const ConstTensor& cos, const ConstTensor& sin, float direction) {
  const int64_t tokens = x.dim(1), heads = x.dim(2), half = x.dim(3) / 2;
  parallel_ranges(ctx.threads, x.dim(0) * tokens, row_grain(heads * x.dim(3)), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t b = n / tokens, t = n % tokens;
      Element* row = x.as<Element>() + b * x.stride(0) + t * x.stride(1);
      for (int64_t h = 0; h < heads; ++h)
        rotate(row + h * x.stride(2), cos.as<float>() + t * half, sin.as<float>() + t * half, direction, half);
    }
  });
}

}  // namespace

void CpuBackend::rope_forward(Context& ctx, Tensor x, ConstTensor cos, ConstTensor sin) {
  with_element(x.dtype(), [&](auto element) { rotate_all<decltype(element)>(ctx, x, cos, sin, 1.0f); });
}

void CpuBackend::rope_backward(Context& ctx, Tensor dx, ConstTensor cos, ConstTensor sin) {
  with_element(dx.dtype(), [&](auto element) { rotate_all<decltype(element)>(ctx, dx, cos, sin, -1.0f); });
}

}  // namespace skippipe::cpu
