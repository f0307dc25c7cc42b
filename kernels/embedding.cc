#include "kernels/embedding.h"

#include "kernels/checks.h"

namespace skippipe {

void embedding_forward(Context& ctx, Tensor y, ConstTensor tokens, ConstTensor w) {
  ArgumentCheck check(ctx, "embedding_forward");
  check.rank("tokens", tokens, 1);
  check.rank("w", w, 2);
  check.dense("tokens", tokens, Holds::kI32, tokens.shape());
  check.dense("w", w, Holds::kReal, w.shape());
  check.dense("y", y, Holds::kReal, {tokens.dim(0), w.dim(1)});
  check.disjoint({"y", y}, {{"tokens", tokens}, {"w", w}});
  ctx.backend->embedding_forward(ctx, y, tokens, w);
}

void embedding_backward(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor tokens) {
  ArgumentCheck check(ctx, "embedding_backward");
  check.rank("tokens", tokens, 1);
  check.rank("dw", dw, 2);
  check.dense("tokens", tokens, Holds::kI32, tokens.shape());
  check.dense("dw", dw, Holds::kF32, dw.shape());
  check.dense("dy", dy, Holds::kReal, {tokens.dim(0), dw.dim(1)});
  check.disjoint({"dw", dw}, {{"tokens", tokens}, {"dy", dy}});
  ctx.backend->embedding_backward(ctx, dw, dy, tokens);
}

}  // namespace skippipe
