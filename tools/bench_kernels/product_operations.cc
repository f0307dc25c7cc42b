// Linear layers and the LM head.
#include <algorithm>

#include "kernels/lm_head.h"
#include "kernels/matmul.h"
#include "tools/bench_kernels/problem.h"

namespace skippipe::bench {
namespace {

// The product of the gate and up projections in one.
struct Linear {
  int64_t rows, inputs, outputs;
  double flops() const { return 2.0 * static_cast<double>(rows * inputs) * static_cast<double>(outputs); }
};
Linear linear(const Shape& s) { return {s.rows(), s.channels, 2 * s.feed_forward}; }

Problem make_linear_forward(Tensors& t, const Shape& s) {
  const Linear at = linear(s);
  const Tensor x = t.input({at.rows, at.inputs}), w = t.input({at.outputs, at.inputs}),
               y = t.output({at.rows, at.outputs});
  return {.run = [=](Context& ctx) { linear_forward(ctx, y, x, w); },
          .work = at.flops(),
          .unit = Unit::kFlops,
          .expected = [=, &t]() -> std::vector<Output> {
            return {{"y", y, reference::linear(t.values(x), t.values(w), at.rows, at.inputs, at.outputs)}};
          }};
}

Problem make_linear_backward_input(Tensors& t, const Shape& s) {
  const Linear at = linear(s);
  const Tensor dy = t.input({at.rows, at.outputs}), w = t.input({at.outputs, at.inputs}),
               dx = t.output({at.rows, at.inputs});
  return {.run = [=](Context& ctx) { linear_backward_input(ctx, dx, dy, w); },
          .work = at.flops(),
          .unit = Unit::kFlops,
          .expected = [=, &t]() -> std::vector<Output> {
            return {{"dx", dx, reference::linear_dx(t.values(dy), t.values(w), at.rows, at.inputs, at.outputs)}};
          }};
}

Problem make_linear_backward_weight(Tensors& t, const Shape& s) {
  const Linear at = linear(s);
  const Tensor dy = t.input({at.rows, at.outputs}), x = t.input({at.rows, at.inputs}),
               dw = t.input({at.outputs, at.inputs}, Dtype::kF32);
  return {.run = [=](Context& ctx) { linear_backward_weight(ctx, dw, dy, x); },
          .work = at.flops(),
          .unit = Unit::kFlops,
          .expected = [=, &t]() -> std::vector<Output> {
            const Array added = reference::linear_dw(t.values(dy), t.values(x), at.rows, at.inputs, at.outputs);
            return {{"dw", dw, plus(t.values(dw), added)}};
          }};
}

struct LmHead {
  Linear at;
  Tensor h, w, targets, lse, loss;
  int64_t scratch_bytes;
};
LmHead make_lm_head(Tensors& t, const Shape& s) {
  const int64_t rows = s.rows(), channels = s.channels, vocabulary = s.vocabulary;
  return {{rows, channels, vocabulary},
          t.input({rows, channels}),
          t.input({vocabulary, channels}),
          t.ids(rows, vocabulary),
          t.output({rows}, Dtype::kF32),
          t.output({1}, Dtype::kF32),
          lm_head_workspace_bytes(t.context(), rows, channels, vocabulary, t.dtype())};
}

// The bare products hold all logits, so they take no more rows than have a rate of their own.
constexpr int64_t kMostPeerRows = 8192;

Problem make_lm_head_forward(Tensors& t, const Shape& s) {
  const LmHead head = make_lm_head(t, s);
  Linear part = head.at;
  part.rows = std::min(part.rows, kMostPeerRows);
  const Tensor h = head.h.slice(0, 0, part.rows), logits = t.output({part.rows, part.outputs});
  return {.run = [=](Context& ctx) { lm_head_loss_forward(ctx, head.loss, head.lse, head.h, head.w, head.targets); },
          .work = head.at.flops(),
          .unit = Unit::kFlops,
          .expected = [=, &t]() -> std::vector<Output> {
            const reference::LmHead result = reference::lm_head(
                t.values(head.h), t.values(head.w), t.id_values(head.targets), head.at.inputs, head.at.outputs);
            return {{"loss", head.loss, {result.loss}}, {"lse", head.lse, result.lse}};
          },
          .scratch_bytes = head.scratch_bytes,
          .peer = {.name = "its product",
                   .run = [=](Context& ctx) { linear_forward(ctx, logits, h, head.w); },
                   .work = part.flops()}};
}

Problem make_lm_head_backward(Tensors& t, const Shape& s) {
  const LmHead head = make_lm_head(t, s);
  Linear part = head.at;
  part.rows = std::min(part.rows, kMostPeerRows);
  const Tensor dh = t.output({head.at.rows, head.at.inputs}),
               dw = t.input({head.at.outputs, head.at.inputs}, Dtype::kF32);
  const Tensor h = head.h.slice(0, 0, part.rows), part_of_dh = dh.slice(0, 0, part.rows),
               logits = t.output({part.rows, part.outputs});
  return {
      .run = [=](Context& ctx) { lm_head_loss_backward(ctx, dh, dw, head.h, head.w, head.targets, head.lse, 1.0f); },
      .work = 3 * head.at.flops(),  // the logits again, dh, dw
      .unit = Unit::kFlops,
      .expected = [=, &t]() -> std::vector<Output> {
        const reference::LmHeadGrad grad = reference::lm_head_grad(
            t.values(head.h), t.values(head.w), t.id_values(head.targets), head.at.inputs, head.at.outputs, 1.0);
        return {{"dh", dh, grad.dh}, {"dw", dw, plus(t.values(dw), grad.dw)}};
      },
      .prepare = [=](Context& ctx) { lm_head_loss_forward(ctx, head.loss, head.lse, head.h, head.w, head.targets); },
      .scratch_bytes = head.scratch_bytes,
      .peer = {.name = "its products",
               .run =
                   [=](Context& ctx) {
                     linear_forward(ctx, logits, h, head.w);
                     linear_backward_input(ctx, part_of_dh, logits, head.w);
                     linear_backward_weight(ctx, dw, logits, h);
                   },
               .work = 3 * part.flops()}};
}

}  // namespace

std::vector<Operation> product_operations() {
  return {{"linear_forward", make_linear_forward},
          {"linear_backward_input", make_linear_backward_input},
          {"linear_backward_weight", make_linear_backward_weight},
          {"lm_head_loss_forward", make_lm_head_forward},
          {"lm_head_loss_backward", make_lm_head_backward}};
}

}  // namespace skippipe::bench
