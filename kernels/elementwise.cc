#include "kernels/elementwise.h"

#include "kernels/checks.h"

namespace skippipe {

void fill_zero(Context& ctx, Tensor x) {
  ArgumentCheck check(ctx, "fill_zero");
  check.dense("x", x, x.dtype() == Dtype::kI32 ? Holds::kI32 : Holds::kAnyReal, x.shape());
  ctx.backend->fill_zero(ctx, x);
}

void cast(Context& ctx, Tensor y, ConstTensor x) {
  ArgumentCheck check(ctx, "cast");
  check.dense("x", x, Holds::kAnyReal, x.shape());
  check.dense("y", y, Holds::kAnyReal, x.shape());
  check.disjoint({"y", y}, {{"x", x}});
  ctx.backend->cast(ctx, y, x);
}

void add(Context& ctx, Tensor y, ConstTensor a, ConstTensor b) {
  ArgumentCheck check(ctx, "add");
  check.dense("a", a, Holds::kReal, a.shape());
  check.dense("b", b, Holds::kReal, a.shape());
  check.dense("y", y, Holds::kReal, a.shape());
  check.same_or_disjoint({"y", y}, {{"a", a}, {"b", b}});
  ctx.backend->add(ctx, y, a, b);
}

void accumulate(Context& ctx, Tensor y, ConstTensor x, float scale) {
  ArgumentCheck check(ctx, "accumulate");
  check.dense("x", x, Holds::kReal, x.shape());
  check.dense("y", y, Holds::kF32, x.shape());
  check.disjoint({"y", y}, {{"x", x}});
  ctx.backend->accumulate(ctx, y, x, scale);
}

void squared_norm(Context& ctx, Tensor sum, ConstTensor x) {
  ArgumentCheck check(ctx, "squared_norm");
  check.dense("x", x, Holds::kF32, x.shape());
  check.dense("sum", sum, Holds::kF32, {1});
  check.disjoint({"sum", sum}, {{"x", x}});
  check.workspace(squared_norm_workspace_bytes(ctx));
  ctx.backend->squared_norm(ctx, sum, x);
}

int64_t squared_norm_workspace_bytes(const Context& ctx) { return ctx.backend->squared_norm_workspace_bytes(ctx); }

}  // namespace skippipe
