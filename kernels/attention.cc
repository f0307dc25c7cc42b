#include "kernels/attention.h"

#include "kernels/checks.h"

namespace skippipe {
namespace {

struct AttentionShapes {
  Dims query, key, lse;
};

// q and k give the shapes that the other arguments must have.
AttentionShapes check_inputs(ArgumentCheck& check, const ConstTensor& q, const ConstTensor& k, const ConstTensor& v) {
  check.rank("q", q, 4);
  check.rank("k", k, 4);
  const AttentionShapes shapes{q.shape(), {q.dim(0), q.dim(1), k.dim(2), q.dim(3)}, {q.dim(0), q.dim(2), q.dim(1)}};
  check.strided("q", q, Holds::kReal, shapes.query);
  check.strided("k", k, Holds::kReal, shapes.key);
  check.strided("v", v, Holds::kReal, shapes.key);
  if (q.dim(2) % k.dim(2) != 0) check.fail(format("q has {} heads, expected a multiple of k's {}", q.dim(2), k.dim(2)));
  return shapes;
}

void check_workspace(ArgumentCheck& check, const Context& ctx, const AttentionShapes& shapes) {
  check.workspace(attention_workspace_bytes(ctx, shapes.query[0], shapes.query[1], shapes.query[2], shapes.key[2],
                                            shapes.query[3]));
}

}  // namespace

void attention_forward(Context& ctx, Tensor y, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v, float scale) {
  ArgumentCheck check(ctx, "attention_forward");
  const AttentionShapes shapes = check_inputs(check, q, k, v);
  check.strided("y", y, Holds::kReal, shapes.query);
  check.dense("lse", lse, Holds::kF32, shapes.lse);
  check.disjoint({"y", y}, {{"q", q}, {"k", k}, {"v", v}});
  check.disjoint({"lse", lse}, {{"q", q}, {"k", k}, {"v", v}, {"y", y}});
  check_workspace(check, ctx, shapes);
  ctx.backend->attention_forward(ctx, y, lse, q, k, v, scale);
}

void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor y, ConstTensor lse, float scale) {
  ArgumentCheck check(ctx, "attention_backward");
  const AttentionShapes shapes = check_inputs(check, q, k, v);
  check.strided("dy", dy, Holds::kReal, shapes.query);
  check.strided("y", y, Holds::kReal, shapes.query);
  check.dense("lse", lse, Holds::kF32, shapes.lse);
  check.strided("dq", dq, Holds::kReal, shapes.query);
  check.strided("dk", dk, Holds::kReal, shapes.key);
  check.strided("dv", dv, Holds::kReal, shapes.key);
  const std::initializer_list<ArgumentCheck::Named> inputs = {{"dy", dy}, {"q", q}, {"k", k},
                                                              {"v", v},   {"y", y}, {"lse", lse}};
  check.disjoint({"dq", dq}, inputs);
  check.disjoint({"dk", dk}, inputs);
  check.disjoint({"dv", dv}, inputs);
  check.disjoint({"dq", dq}, {{"dk", dk}, {"dv", dv}});
  check.disjoint({"dk", dk}, {{"dv", dv}});
  check_workspace(check, ctx, shapes);
  ctx.backend->attention_backward(ctx, dq, dk, dv, dy, q, k, v, y, lse, scale);
}

int64_t attention_workspace_bytes(const Context& ctx, int64_t batch, int64_t tokens, int64_t heads, int64_t kv_heads,
                                  int64_t head_dim) {
  return ctx.backend->attention_workspace_bytes(ctx, batch, tokens, heads, kv_heads, head_dim);
}

void internal::fail_head_dim(int64_t head_dim, int64_t most) {
  throw ShapeError("attention: heads have {} columns, expected at most {} on this backend", head_dim, most);
}

}  // namespace skippipe
