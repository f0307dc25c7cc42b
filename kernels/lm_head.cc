#include "kernels/lm_head.h"

#include "kernels/checks.h"

namespace skippipe {
namespace {

void check_inputs(ArgumentCheck& check, const Context& ctx, const ConstTensor& h, const ConstTensor& w,
                  const ConstTensor& targets, const ConstTensor& lse) {
  check.rank("h", h, 2);
  check.rank("w", w, 2);
  check.dense("h", h, Holds::kReal, h.shape());
  check.dense("w", w, Holds::kReal, {w.dim(0), h.dim(1)});
  check.dense("targets", targets, Holds::kI32, {h.dim(0)});
  check.dense("lse", lse, Holds::kF32, {h.dim(0)});
  check.workspace(lm_head_workspace_bytes(ctx, h.dim(0), h.dim(1), w.dim(0), h.dtype()));
}

}  // namespace

void lm_head_loss_forward(Context& ctx, Tensor loss, Tensor lse, ConstTensor h, ConstTensor w, ConstTensor targets) {
  ArgumentCheck check(ctx, "lm_head_loss_forward");
  check_inputs(check, ctx, h, w, targets, lse);
  check.dense("loss", loss, Holds::kF32, {1});
  check.disjoint({"loss", loss}, {{"h", h}, {"w", w}, {"targets", targets}, {"lse", lse}});
  check.disjoint({"lse", lse}, {{"h", h}, {"w", w}, {"targets", targets}});
  ctx.backend->lm_head_loss_forward(ctx, loss, lse, h, w, targets);
}

void lm_head_loss_backward(Context& ctx, Tensor dh, Tensor dw, ConstTensor h, ConstTensor w, ConstTensor targets,
                           ConstTensor lse, float scale) {
  ArgumentCheck check(ctx, "lm_head_loss_backward");
  check_inputs(check, ctx, h, w, targets, lse);
  check.dense("dh", dh, Holds::kReal, h.shape());
  check.dense("dw", dw, Holds::kF32, w.shape());
  check.disjoint({"dh", dh}, {{"h", h}, {"w", w}, {"targets", targets}, {"lse", lse}, {"dw", dw}});
  check.disjoint({"dw", dw}, {{"h", h}, {"w", w}, {"targets", targets}, {"lse", lse}});
  ctx.backend->lm_head_loss_backward(ctx, dh, dw, h, w, targets, lse, scale);
}

int64_t lm_head_workspace_bytes(const Context& ctx, int64_t rows, int64_t channels, int64_t vocabulary, Dtype dtype) {
  return ctx.backend->lm_head_workspace_bytes(ctx, rows, channels, vocabulary, dtype);
}

}  // namespace skippipe
