#include "kernels/rmsnorm.h"

#include "kernels/checks.h"

namespace skippipe {

void rmsnorm_forward(Context& ctx, Tensor y, Tensor rrms, ConstTensor x, ConstTensor w, float eps) {
  ArgumentCheck check(ctx, "rmsnorm_forward");
  check.rank("x", x, 2);
  check.dense("x", x, Holds::kReal, x.shape());
  check.dense("w", w, Holds::kReal, {x.dim(1)});
  check.dense("y", y, Holds::kReal, x.shape());
  check.dense("rrms", rrms, Holds::kF32, {x.dim(0)});
  check.same_or_disjoint({"y", y}, {{"x", x}});
  check.disjoint({"y", y}, {{"w", w}});
  check.disjoint({"rrms", rrms}, {{"x", x}, {"w", w}, {"y", y}});
  ctx.backend->rmsnorm_forward(ctx, y, rrms, x, w, eps);
}

void add_rmsnorm_forward(Context& ctx, Tensor y, Tensor sum, Tensor rrms, ConstTensor x, ConstTensor residual,
                         ConstTensor w, float eps) {
  ArgumentCheck check(ctx, "add_rmsnorm_forward");
  check.rank("x", x, 2);
  check.dense("x", x, Holds::kReal, x.shape());
  check.dense("residual", residual, Holds::kReal, x.shape());
  check.dense("w", w, Holds::kReal, {x.dim(1)});
  check.dense("y", y, Holds::kReal, x.shape());
  check.dense("sum", sum, Holds::kReal, x.shape());
  check.dense("rrms", rrms, Holds::kF32, {x.dim(0)});
  check.same_or_disjoint({"sum", sum}, {{"x", x}, {"residual", residual}});
  check.same_or_disjoint({"y", y}, {{"x", x}, {"residual", residual}});
  check.disjoint({"y", y}, {{"w", w}, {"sum", sum}});
  check.disjoint({"sum", sum}, {{"w", w}});
  check.disjoint({"rrms", rrms}, {{"x", x}, {"residual", residual}, {"w", w}, {"y", y}, {"sum", sum}});
  ctx.backend->add_rmsnorm_forward(ctx, y, sum, rrms, x, residual, w, eps);
}

void rmsnorm_backward(Context& ctx, Tensor dx, Tensor dw, ConstTensor dy, ConstTensor x, ConstTensor w,
                      ConstTensor rrms, ConstTensor dresidual) {
  ArgumentCheck check(ctx, "rmsnorm_backward");
  check.rank("x", x, 2);
  check.dense("x", x, Holds::kReal, x.shape());
  check.dense("dy", dy, Holds::kReal, x.shape());
  check.dense("w", w, Holds::kReal, {x.dim(1)});
  check.dense("rrms", rrms, Holds::kF32, {x.dim(0)});
  if (!dresidual.empty()) check.dense("dresidual", dresidual, Holds::kReal, x.shape());
  check.dense("dx", dx, Holds::kReal, x.shape());
  check.dense("dw", dw, Holds::kF32, {x.dim(1)});
  check.same_or_disjoint({"dx", dx}, {{"dy", dy}, {"dresidual", dresidual}});
  check.disjoint({"dx", dx}, {{"x", x}, {"w", w}, {"rrms", rrms}});
  check.disjoint({"dw", dw}, {{"dx", dx}, {"dy", dy}, {"x", x}, {"w", w}, {"rrms", rrms}, {"dresidual", dresidual}});
  check.workspace(rmsnorm_backward_workspace_bytes(ctx, x.dim(1)));
  ctx.backend->rmsnorm_backward(ctx, dx, dw, dy, x, w, rrms, dresidual);
}

int64_t rmsnorm_backward_workspace_bytes(const Context& ctx, int64_t channels) {
  return ctx.backend->rmsnorm_backward_workspace_bytes(ctx, channels);
}

}  // namespace skippipe
