#include "kernels/adamw.h"

#include "kernels/checks.h"

namespace skippipe {

void adamw_step(Context& ctx, Tensor w, Tensor m, Tensor v, ConstTensor grad, const AdamWStep& step) {
  ArgumentCheck check(ctx, "adamw_step");
  check.dense("w", w, Holds::kF32, w.shape());
  check.dense("m", m, Holds::kF32, w.shape());
  check.dense("v", v, Holds::kF32, w.shape());
  check.dense("grad", grad, Holds::kF32, w.shape());
  check.disjoint({"w", w}, {{"m", m}, {"v", v}, {"grad", grad}});
  check.disjoint({"m", m}, {{"v", v}, {"grad", grad}});
  check.disjoint({"v", v}, {{"grad", grad}});
  if (step.step < 1) check.fail(format("step is {}, expected at least 1", step.step));
  if (step.decayed < 0) check.fail(format("{} elements decay, expected at least 0", step.decayed));
  ctx.backend->adamw_step(ctx, w, m, v, grad, step);
}

}  // namespace skippipe
