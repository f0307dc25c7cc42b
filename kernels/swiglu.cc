#include "kernels/swiglu.h"

#include "kernels/checks.h"

namespace skippipe {

void swiglu_forward(Context& ctx, Tensor y, ConstTensor gate, ConstTensor up) {
  ArgumentCheck check(ctx, "swiglu_forward");
  check.rank("gate", gate, 2);
  check.strided("gate", gate, Holds::kReal, gate.shape());
  check.strided("up", up, Holds::kReal, gate.shape());
  check.strided("y", y, Holds::kReal, gate.shape());
  check.same_or_disjoint({"y", y}, {{"gate", gate}, {"up", up}});
  ctx.backend->swiglu_forward(ctx, y, gate, up);
}

void swiglu_backward(Context& ctx, Tensor dgate, Tensor dup, ConstTensor dy, ConstTensor gate, ConstTensor up) {
  ArgumentCheck check(ctx, "swiglu_backward");
  check.rank("gate", gate, 2);
  check.strided("gate", gate, Holds::kReal, gate.shape());
  check.strided("up", up, Holds::kReal, gate.shape());
  check.strided("dy", dy, Holds::kReal, gate.shape());
  check.strided("dgate", dgate, Holds::kReal, gate.shape());
  check.strided("dup", dup, Holds::kReal, gate.shape());
  check.same_or_disjoint({"dgate", dgate}, {{"gate", gate}});
  check.same_or_disjoint({"dup", dup}, {{"up", up}});
  check.disjoint({"dgate", dgate}, {{"dup", dup}, {"up", up}, {"dy", dy}});
  check.disjoint({"dup", dup}, {{"gate", gate}, {"dy", dy}});
  ctx.backend->swiglu_backward(ctx, dgate, dup, dy, gate, up);
}

}  // namespace skippipe
