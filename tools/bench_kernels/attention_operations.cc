// Attention over whole sequences, and over a cache of keys and values.
#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/attention_cached.h"
#include "tools/bench_kernels/problem.h"

namespace skippipe::bench {
namespace {

struct Heads {
  Tensor q, k, v;
};

// As the engine holds them: columns of one fused projection.
Heads columns(const Tensor& fused, const Shape& s) {
  const int64_t width = fused.dim(1);
  const auto view = [&](int64_t first, int64_t heads) {
    return Tensor(fused.slice(1, first * s.head_dim, heads * s.head_dim).data(), {s.batch, s.tokens, heads, s.head_dim},
                  {s.tokens * width, width, s.head_dim, 1}, fused.dtype(), fused.device());
  };
  return {view(0, s.heads), view(s.heads, s.kv_heads), view(s.heads + s.kv_heads, s.kv_heads)};
}
Dims fused_dims(const Shape& s) { return {s.rows(), (s.heads + 2 * s.kv_heads) * s.head_dim}; }

struct Attention {
  reference::AttentionShape at;
  Heads in;
  Tensor y, lse;
  float scale;
  double product_flops;  // of one product of scores; only pairs that the mask lets through count
};
Attention make_attention(Tensors& t, const Shape& s) {
  return {{s.batch, s.tokens, s.heads, s.kv_heads, s.head_dim},
          columns(t.input(fused_dims(s)), s),
          t.output({s.batch, s.tokens, s.heads, s.head_dim}),
          t.output({s.batch, s.heads, s.tokens}, Dtype::kF32),
          1 / std::sqrt(static_cast<float>(s.head_dim)),
          static_cast<double>(s.batch * s.heads * s.head_dim) * static_cast<double>(s.tokens) *
              static_cast<double>(s.tokens + 1)};
}

int64_t scratch(const Context& ctx, const reference::AttentionShape& at) {
  return attention_workspace_bytes(ctx, at.batch, at.tokens, at.heads, at.kv_heads, at.head_dim);
}

std::function<void(Context&)> on_backend(Backend* backend, const std::function<void(Context&)>& run) {
  return [=](Context& ours) {
    Context theirs = ours;
    theirs.backend = backend;
    run(theirs);
  };
}

// cuDNN's attention knows bf16 only, and heads and sequences as the models have them. Of what it does not take, its
// backend calls our own.
void add_library_peer(Problem& problem, Tensors& t, const reference::AttentionShape& at) {
  Backend* const library = t.device().attention_library();
  if (library == nullptr || t.dtype() != Dtype::kBf16) return;
  Context ctx = t.context();
  ctx.backend = library;
  problem.peer = {.name = "cuDNN",
                  .run = on_backend(library, problem.run),
                  .work = problem.work,
                  .scratch_bytes = scratch(ctx, at),
                  .same_outputs = true};
}

Problem make_attention_forward(Tensors& t, const Shape& s) {
  const Attention a = make_attention(t, s);
  Problem problem{.run = [=](Context& ctx) { attention_forward(ctx, a.y, a.lse, a.in.q, a.in.k, a.in.v, a.scale); },
                  .work = 2 * a.product_flops,
                  .unit = Unit::kFlops,
                  .expected = [=, &t]() -> std::vector<Output> {
                    const reference::Attention result =
                        reference::attention(t.values(a.in.q), t.values(a.in.k), t.values(a.in.v), a.at, a.scale);
                    return {{"y", a.y, result.y}, {"lse", a.lse, result.lse}};
                  },
                  .scratch_bytes = scratch(t.context(), a.at)};
  add_library_peer(problem, t, a.at);
  return problem;
}

Problem make_attention_backward(Tensors& t, const Shape& s) {
  const Attention a = make_attention(t, s);
  const Heads out = columns(t.output(fused_dims(s)), s);
  const Tensor dy = t.input(a.y.shape());
  Problem problem{
      .run =
          [=](Context& ctx) {
            attention_backward(ctx, out.q, out.k, out.v, dy, a.in.q, a.in.k, a.in.v, a.y, a.lse, a.scale);
          },
      .work = 5 * a.product_flops,  // the scores again, dp, dv, dq, dk
      .unit = Unit::kFlops,
      .expected = [=, &t]() -> std::vector<Output> {
        const reference::AttentionGrad grad = reference::attention_grad(
            t.values(dy), t.values(a.in.q), t.values(a.in.k), t.values(a.in.v), a.at, a.scale);
        const double term_size = 0.4;  // as in tests/kernels/attention_test.cc
        return {{"dq", out.q, grad.dq, term_size}, {"dk", out.k, grad.dk, term_size}, {"dv", out.v, grad.dv}};
      },
      .prepare = [=](Context& ctx) { attention_forward(ctx, a.y, a.lse, a.in.q, a.in.k, a.in.v, a.scale); },
      .scratch_bytes = scratch(t.context(), a.at)};
  add_library_peer(problem, t, a.at);
  return problem;
}

// The same by the kernels for all devices, to be seen beside those for this one.
template <Problem (*make)(Tensors&, const Shape&)>
Problem make_portable(Tensors& t, const Shape& s) {
  Problem problem = make(t, s);
  problem.run = on_backend(t.device().portable_attention(), problem.run);
  return problem;
}

// The last `queries` tokens of one sequence as long as the whole batch.
Problem make_cached(Tensors& t, const Shape& s, int64_t queries, Unit unit) {
  const int64_t positions = s.rows();
  const Tensor q = t.input({queries, s.heads, s.head_dim}), y = t.output(q.shape()),
               k = t.input({positions, s.kv_heads, s.head_dim}), v = t.input(k.shape());
  const float scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
  const double pairs =
      static_cast<double>(queries) * (static_cast<double>(positions) - static_cast<double>(queries - 1) / 2);
  const double flops = 4.0 * static_cast<double>(s.heads * s.head_dim) * pairs;
  return {.run = [=](Context& ctx) { attention_cached_forward(ctx, y, q, k, v, scale); },
          .work = unit == Unit::kFlops ? flops : static_cast<double>(k.bytes() + v.bytes() + q.bytes() + y.bytes()),
          .unit = unit,
          .expected = [=, &t]() -> std::vector<Output> {
            // As attention of all tokens, of which only the last have queries.
            const auto begin = static_cast<size_t>((positions - queries) * s.heads * s.head_dim);
            Array all(begin, 0.0);
            const Array last = t.values(q);
            all.insert(all.end(), last.begin(), last.end());
            const Array result = reference::attention(all, t.values(k), t.values(v),
                                                      {1, positions, s.heads, s.kv_heads, s.head_dim}, scale)
                                     .y;
            return {{"y", y, {result.begin() + static_cast<std::ptrdiff_t>(begin), result.end()}}};
          },
          .scratch_bytes = attention_cached_workspace_bytes(t.context(), queries, s.heads, s.kv_heads, s.head_dim)};
}

Problem make_cached_token(Tensors& t, const Shape& s) { return make_cached(t, s, 1, Unit::kBytes); }
Problem make_cached_chunk(Tensors& t, const Shape& s) { return make_cached(t, s, 64, Unit::kFlops); }

}  // namespace

std::vector<Operation> attention_operations() {
  return {{"attention_forward", make_attention_forward, false, true},
          {"attention_forward_portable", make_portable<make_attention_forward>, false, true, true},
          {"attention_backward", make_attention_backward, false, true},
          {"attention_backward_portable", make_portable<make_attention_backward>, false, true, true},
          {"attention_cached_token", make_cached_token, true},
          {"attention_cached_chunk", make_cached_chunk, true}};
}

}  // namespace skippipe::bench
