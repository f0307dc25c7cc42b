#include "kernels/matmul.h"

#include "kernels/checks.h"

namespace skippipe {

void linear_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w) {
  ArgumentCheck check(ctx, "linear_forward");
  check.rank("x", x, 2);
  check.rank("w", w, 2);
  check.strided("x", x, Holds::kReal, x.shape());
  check.dense("w", w, Holds::kReal, {w.dim(0), x.dim(1)});
  check.strided("y", y, Holds::kReal, {x.dim(0), w.dim(0)});
  check.disjoint({"y", y}, {{"x", x}, {"w", w}});
  ctx.backend->linear_forward(ctx, y, x, w);
}

void linear_backward_input(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor w, bool accumulate) {
  ArgumentCheck check(ctx, "linear_backward_input");
  check.rank("dy", dy, 2);
  check.rank("w", w, 2);
  check.strided("dy", dy, Holds::kReal, dy.shape());
  check.dense("w", w, Holds::kReal, {dy.dim(1), w.dim(1)});
  check.strided("dx", dx, Holds::kReal, {dy.dim(0), w.dim(1)});
  check.disjoint({"dx", dx}, {{"dy", dy}, {"w", w}});
  ctx.backend->linear_backward_input(ctx, dx, dy, w, accumulate);
}

void linear_backward_weight(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x) {
  ArgumentCheck check(ctx, "linear_backward_weight");
  check.rank("dy", dy, 2);
  check.rank("x", x, 2);
  check.strided("dy", dy, Holds::kReal, dy.shape());
  check.strided("x", x, Holds::kReal, {dy.dim(0), x.dim(1)});
  check.dense("dw", dw, Holds::kF32, {dy.dim(1), x.dim(1)});
  check.disjoint({"dw", dw}, {{"dy", dy}, {"x", x}});
  ctx.backend->linear_backward_weight(ctx, dw, dy, x);
}

}  // namespace skippipe
