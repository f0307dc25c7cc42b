// What works element by element: the optimizer, casts, sums.
#include "kernels/adamw.h"
#include "kernels/elementwise.h"
#include "tools/bench_kernels/problem.h"

namespace skippipe::bench {
namespace {

double bytes(const ConstTensor& x) { return static_cast<double>(x.bytes()); }

Problem make_adamw(Tensors& t, const Shape& s) {
  AdamWStep step;
  step.learning_rate = 1e-4f;
  step.weight_decay = 0.1f;
  step.grad_scale = 0.5f;
  const Dims shape{s.flat};
  const Tensor w = t.input(shape), m = t.input(shape), v = t.output(shape), grad = t.input(shape);
  return {.run = [=](Context& ctx) { adamw_step(ctx, w, m, v, grad, step); },
          .work = 7 * bytes(w),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            const reference::AdamW result = reference::adamw(
                {t.values(w), t.values(m), t.values(v)}, t.values(grad),
                {step.learning_rate, step.beta1, step.beta2, step.eps, step.weight_decay, step.grad_scale, step.step});
            return {{"w", w, result.w}, {"m", m, result.m}, {"v", v, result.v}};
          },
          .prepare = [=](Context& ctx) { fill_zero(ctx, v); }};  // random ones would be negative
}

Problem make_squared_norm(Tensors& t, const Shape& s) {
  const Tensor x = t.input({s.flat}), sum = t.output({1});
  return {.run = [=](Context& ctx) { squared_norm(ctx, sum, x); },
          .work = bytes(x),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            double squares = 0;
            for (const double value : t.values(x)) squares += value * value;
            return {{"sum", sum, {squares}}};
          },
          .scratch_bytes = squared_norm_workspace_bytes(t.context())};
}

// To the dtype, from the other one.
Problem make_cast(Tensors& t, const Shape& s) {
  const Tensor x = t.input({s.flat}, t.dtype() == Dtype::kF32 ? Dtype::kBf16 : Dtype::kF32), y = t.output(x.shape());
  return {.run = [=](Context& ctx) { cast(ctx, y, x); },
          .work = bytes(x) + bytes(y),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            return {{"y", y, t.values(x)}};
          }};
}

Problem make_fill_zero(Tensors& t, const Shape& s) {
  const Tensor x = t.output({s.flat});
  return {.run = [=](Context& ctx) { fill_zero(ctx, x); },
          .work = bytes(x),
          .unit = Unit::kBytes,
          .expected = [=]() -> std::vector<Output> {
            return {{"x", x, Array(static_cast<size_t>(s.flat), 0.0)}};
          }};
}

Problem make_add(Tensors& t, const Shape& s) {
  const Tensor a = t.input({s.flat}), b = t.input({s.flat}), y = t.output({s.flat});
  return {.run = [=](Context& ctx) { add(ctx, y, a, b); },
          .work = 3 * bytes(y),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            return {{"y", y, plus(t.values(a), t.values(b))}};
          }};
}

Problem make_accumulate(Tensors& t, const Shape& s) {
  const Tensor x = t.input({s.flat}), y = t.input({s.flat}, Dtype::kF32);
  const float scale = 0.25f;
  return {.run = [=](Context& ctx) { accumulate(ctx, y, x, scale); },
          .work = bytes(x) + 2 * bytes(y),
          .unit = Unit::kBytes,
          .expected = [=, &t]() -> std::vector<Output> {
            Array added = t.values(x);
            for (double& value : added) value *= scale;
            return {{"y", y, plus(t.values(y), added)}};
          }};
}

}  // namespace

std::vector<Operation> flat_operations() {
  return {{"adamw_step", make_adamw, true},
          {"squared_norm", make_squared_norm, true},
          {"cast", make_cast},
          {"fill_zero", make_fill_zero},
          {"add", make_add},
          {"accumulate", make_accumulate}};
}

}  // namespace skippipe::bench
