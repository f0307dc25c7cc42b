// What works row by row and moves bytes: embedding, norms, rotary embedding, SwiGLU.
#include <set>

#include "kernels/embedding.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "tools/bench_kernels/problem.h"

namespace skippipe::bench {
namespace {

constexpr float kEps = 1e-5f;

double bytes(const ConstTensor& x) { return static_cast<double>(x.bytes()); }

// Of the rows of w that some token names.
double named_bytes(Tensors& t, const ConstTensor& tokens, const ConstTensor& w) {
  const Ids ids = t.id_values(tokens);
  const std::set<int32_t> named(ids.begin(), ids.end());
  return static_cast<double>(named.size()) * static_cast<double>(w.dim(1) * dtype_bytes(w.dtype()));
}

Problem make_embedding_forward(Tensors& t, const Shape& s) {
  const Tensor tokens = t.ids(s.rows(), s.vocabulary), w = t.input({s.vocabulary, s.channels}),
               y = t.output({s.rows(), s.channels});
  return {.run = [=](Context& ctx) { embedding_forward(ctx, y, tokens, w); },
          .work = named_bytes(t, tokens, w) + bytes(y),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            return {{"y", y, reference::embedding(t.id_values(tokens), t.values(w), w.dim(1))}};
          }};
}

Problem make_embedding_backward(Tensors& t, const Shape& s) {
  const Tensor tokens = t.ids(s.rows(), s.vocabulary), dy = t.input({s.rows(), s.channels}),
               dw = t.input({s.vocabulary, s.channels}, Dtype::kF32);
  return {.run = [=](Context& ctx) { embedding_backward(ctx, dw, dy, tokens); },
          .work = bytes(dy) + 2 * named_bytes(t, tokens, dw),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            const Array added = reference::embedding_dw(t.values(dy), t.id_values(tokens), dw.dim(0), dw.dim(1));
            return {{"dw", dw, plus(t.values(dw), added)}};
          }};
}

Problem make_rmsnorm_forward(Tensors& t, const Shape& s) {
  const Tensor x = t.input({s.rows(), s.channels}), w = t.input({s.channels}), y = t.output(x.shape()),
               rrms = t.output({s.rows()}, Dtype::kF32);
  return {.run = [=](Context& ctx) { rmsnorm_forward(ctx, y, rrms, x, w, kEps); },
          .work = 2 * bytes(x),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            const reference::RmsNorm result = reference::rmsnorm(t.values(x), t.values(w), w.dim(0), kEps);
            return {{"y", y, result.y}, {"rrms", rrms, result.rrms}};
          }};
}

Problem make_add_rmsnorm_forward(Tensors& t, const Shape& s) {
  const Tensor x = t.input({s.rows(), s.channels}), residual = t.input(x.shape()), w = t.input({s.channels}),
               y = t.output(x.shape()), sum = t.output(x.shape()), rrms = t.output({s.rows()}, Dtype::kF32);
  return {.run = [=](Context& ctx) { add_rmsnorm_forward(ctx, y, sum, rrms, x, residual, w, kEps); },
          .work = 4 * bytes(x),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            const Array added = plus(t.values(x), t.values(residual));
            const reference::RmsNorm result = reference::rmsnorm(added, t.values(w), w.dim(0), kEps);
            return {{"y", y, result.y}, {"sum", sum, added}, {"rrms", rrms, result.rrms}};
          }};
}

Problem make_rmsnorm_backward(Tensors& t, const Shape& s) {
  const Tensor dy = t.input({s.rows(), s.channels}), x = t.input(dy.shape()), dresidual = t.input(dy.shape()),
               w = t.input({s.channels}), rrms = t.output({s.rows()}, Dtype::kF32), dx = t.output(dy.shape()),
               dw = t.input({s.channels}, Dtype::kF32);
  return {.run = [=](Context& ctx) { rmsnorm_backward(ctx, dx, dw, dy, x, w, rrms, dresidual); },
          .work = 4 * bytes(x),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            const reference::RmsNormGrad grad =
                reference::rmsnorm_grad(t.values(dy), t.values(x), t.values(w), w.dim(0), kEps);
            return {{"dx", dx, plus(grad.dx, t.values(dresidual))}, {"dw", dw, plus(t.values(dw), grad.dw)}};
          },
          .prepare = [=](Context& ctx) { rmsnorm_forward(ctx, dx, rrms, x, w, kEps); },
          .scratch_bytes = rmsnorm_backward_workspace_bytes(t.context(), s.channels)};
}

// Of the queries and keys at once, columns of the fused projection, as the engine does it.
template <void (*rope)(Context&, Tensor, ConstTensor, ConstTensor), int direction>
Problem make_rope(Tensors& t, const Shape& s) {
  const int64_t rotated = s.heads + s.kv_heads, width = (rotated + s.kv_heads) * s.head_dim;
  const Tensor fused = t.input({s.rows(), width});
  const Tensor x(fused.data(), {s.batch, s.tokens, rotated, s.head_dim}, {s.tokens * width, width, s.head_dim, 1},
                 fused.dtype(), fused.device());
  const Tensor cos = t.input({s.tokens, s.head_dim / 2}, Dtype::kF32), sin = t.input(cos.shape(), Dtype::kF32);
  return {.run = [=](Context& ctx) { rope(ctx, x, cos, sin); },
          .work = 2 * bytes(x),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            return {{"x", x,
                     reference::rope(t.values(x), t.values(cos), t.values(sin), x.dim(0), x.dim(1), x.dim(2), x.dim(3),
                                     direction)}};
          }};
}

// Gate and up are columns of one product, as in the engine.
struct Swiglu {
  Tensor gate, up;
};
Swiglu halves(const Tensor& fused) {
  const int64_t half = fused.dim(1) / 2;
  return {fused.slice(1, 0, half), fused.slice(1, half, half)};
}

Problem make_swiglu_forward(Tensors& t, const Shape& s) {
  const Swiglu in = halves(t.input({s.rows(), 2 * s.feed_forward}));
  const Tensor y = t.output({s.rows(), s.feed_forward});
  return {.run = [=](Context& ctx) { swiglu_forward(ctx, y, in.gate, in.up); },
          .work = 3 * bytes(y),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            return {{"y", y, reference::swiglu(t.values(in.gate), t.values(in.up))}};
          }};
}

Problem make_swiglu_backward(Tensors& t, const Shape& s) {
  const Swiglu in = halves(t.input({s.rows(), 2 * s.feed_forward})),
               out = halves(t.output({s.rows(), 2 * s.feed_forward}));
  const Tensor dy = t.input({s.rows(), s.feed_forward});
  return {.run = [=](Context& ctx) { swiglu_backward(ctx, out.gate, out.up, dy, in.gate, in.up); },
          .work = 5 * bytes(dy),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            const reference::SwigluGrad grad = reference::swiglu_grad(t.values(dy), t.values(in.gate), t.values(in.up));
            return {{"dgate", out.gate, grad.dgate}, {"dup", out.up, grad.dup}};
          }};
}

}  // namespace

std::vector<Operation> row_operations() {
  return {{"embedding_forward", make_embedding_forward},   {"embedding_backward", make_embedding_backward},
          {"rmsnorm_forward", make_rmsnorm_forward},       {"add_rmsnorm_forward", make_add_rmsnorm_forward},
          {"rmsnorm_backward", make_rmsnorm_backward},     {"rope_forward", make_rope<rope_forward, 1>},
          {"rope_backward", make_rope<rope_backward, -1>}, {"swiglu_forward", make_swiglu_forward},
          {"swiglu_backward", make_swiglu_backward}};
}

}  // namespace skippipe::bench
