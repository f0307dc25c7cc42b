#include "kernels/rope.h"

#include "kernels/checks.h"

namespace skippipe {
namespace {

void check_rope(const Context& ctx, const char* operation, const char* name, const Tensor& x, const ConstTensor& cos,
                const ConstTensor& sin) {
  ArgumentCheck check(ctx, operation);
  check.rank(name, x, 4);
  if (x.dim(3) % 2 != 0) check.fail(format("{} is {}, expected an even head dim", name, x.shape().to_string()));
  check.strided(name, x, Holds::kReal, x.shape());
  check.dense("cos", cos, Holds::kF32, {x.dim(1), x.dim(3) / 2});
  check.dense("sin", sin, Holds::kF32, {x.dim(1), x.dim(3) / 2});
  check.disjoint({name, x}, {{"cos", cos}, {"sin", sin}});
}

}  // namespace

void rope_forward(Context& ctx, Tensor x, ConstTensor cos, ConstTensor sin) {
  check_rope(ctx, "rope_forward", "x", x, cos, sin);
  ctx.backend->rope_forward(ctx, x, cos, sin);
}

void rope_backward(Context& ctx, Tensor dx, ConstTensor cos, ConstTensor sin) {
  check_rope(ctx, "rope_backward", "dx", dx, cos, sin);
  ctx.backend->rope_backward(ctx, dx, cos, sin);
}

}  // namespace skippipe
