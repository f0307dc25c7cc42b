#include "kernels/attention_cached.h"

#include "kernels/checks.h"

namespace skippipe {

void attention_cached_forward(Context& ctx, Tensor y, ConstTensor q, ConstTensor k, ConstTensor v, float scale) {
  ArgumentCheck check(ctx, "attention_cached_forward");
  check.rank("q", q, 3);
  check.rank("k", k, 3);
  const Dims key = {k.dim(0), k.dim(1), q.dim(2)};
  check.strided("q", q, Holds::kF32, q.shape());
  check.strided("k", k, Holds::kF32, key);
  check.strided("v", v, Holds::kF32, key);
  check.strided("y", y, Holds::kF32, q.shape());
  if (q.dim(1) % k.dim(1) != 0) check.fail(format("q has {} heads, expected a multiple of k's {}", q.dim(1), k.dim(1)));
  if (q.dim(0) > k.dim(0)) check.fail(format("q has {} tokens, expected at most k's {}", q.dim(0), k.dim(0)));
  check.disjoint({"y", y}, {{"q", q}, {"k", k}, {"v", v}});
  check.workspace(attention_cached_workspace_bytes(ctx, q.dim(0), q.dim(1), k.dim(1), q.dim(2)));
  ctx.backend->attention_cached_forward(ctx, y, q, k, v, scale);
}

int64_t attention_cached_workspace_bytes(const Context& ctx, int64_t queries, int64_t heads, int64_t kv_heads,
                                         int64_t head_dim) {
  return ctx.backend->attention_cached_workspace_bytes(ctx, queries, heads, kv_heads, head_dim);
}

}  // namespace skippipe
