// A backend that hands every operation on to another and adds up the time the device took for it, by name. It waits for
// each, so a GPU's figures have its time to start in them, and what they add up to is more than the operations take one
// behind the other. A stage over it may not use graphs. For benchmarks.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "kernels/backend.h"

namespace skippipe {

class TimedBackend final : public Backend {
 public:
  explicit TimedBackend(Backend& inner) : inner_(inner) {}

  // Seconds in each operation since the last clear().
  const std::map<std::string, double>& seconds() const { return seconds_; }
  void clear() { seconds_.clear(); }

  const char* name() const override { return inner_.name(); }
  Device device() const override { return inner_.device(); }
  Runtime& runtime() override { return inner_.runtime(); }
  bool computes_in(Dtype dtype) const override { return inner_.computes_in(dtype); }

  void linear_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w) override {
    timed(ctx, "linear forward", [&] { inner_.linear_forward(ctx, y, x, w); });
  }
  void linear_backward_input(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor w, bool accumulate) override {
    timed(ctx, "linear backward input", [&] { inner_.linear_backward_input(ctx, dx, dy, w, accumulate); });
  }
  void linear_backward_weight(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x) override {
    timed(ctx, "linear backward weight", [&] { inner_.linear_backward_weight(ctx, dw, dy, x); });
  }
  void embedding_forward(Context& ctx, Tensor y, ConstTensor tokens, ConstTensor w) override {
    timed(ctx, "embedding", [&] { inner_.embedding_forward(ctx, y, tokens, w); });
  }
  void embedding_backward(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor tokens) override {
    timed(ctx, "embedding", [&] { inner_.embedding_backward(ctx, dw, dy, tokens); });
  }
  void rmsnorm_forward(Context& ctx, Tensor y, Tensor rrms, ConstTensor x, ConstTensor w, float eps) override {
    timed(ctx, "rmsnorm forward", [&] { inner_.rmsnorm_forward(ctx, y, rrms, x, w, eps); });
  }
  void add_rmsnorm_forward(Context& ctx, Tensor y, Tensor sum, Tensor rrms, ConstTensor x, ConstTensor residual,
                           ConstTensor w, float eps) override {
    timed(ctx, "rmsnorm forward", [&] { inner_.add_rmsnorm_forward(ctx, y, sum, rrms, x, residual, w, eps); });
  }
  void rmsnorm_backward(Context& ctx, Tensor dx, Tensor dw, ConstTensor dy, ConstTensor x, ConstTensor w,
                        ConstTensor rrms, ConstTensor dresidual) override {
    timed(ctx, "rmsnorm backward", [&] { inner_.rmsnorm_backward(ctx, dx, dw, dy, x, w, rrms, dresidual); });
  }
  int64_t rmsnorm_backward_workspace_bytes(const Context& ctx, int64_t channels) const override {
    return inner_.rmsnorm_backward_workspace_bytes(ctx, channels);
  }
  void rope_forward(Context& ctx, Tensor x, ConstTensor cos, ConstTensor sin) override {
    timed(ctx, "rope", [&] { inner_.rope_forward(ctx, x, cos, sin); });
  }
  void rope_backward(Context& ctx, Tensor dx, ConstTensor cos, ConstTensor sin) override {
    timed(ctx, "rope", [&] { inner_.rope_backward(ctx, dx, cos, sin); });
  }
  void attention_forward(Context& ctx, Tensor y, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                         float scale) override {
    timed(ctx, "attention forward", [&] { inner_.attention_forward(ctx, y, lse, q, k, v, scale); });
  }
  void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy, ConstTensor q, ConstTensor k,
                          ConstTensor v, ConstTensor y, ConstTensor lse, float scale) override {
    timed(ctx, "attention backward", [&] { inner_.attention_backward(ctx, dq, dk, dv, dy, q, k, v, y, lse, scale); });
  }
  int64_t attention_workspace_bytes(const Context& ctx, int64_t batch, int64_t tokens, int64_t heads, int64_t kv_heads,
                                    int64_t head_dim) const override {
    return inner_.attention_workspace_bytes(ctx, batch, tokens, heads, kv_heads, head_dim);
  }
  void attention_cached_forward(Context& ctx, Tensor y, ConstTensor q, ConstTensor k, ConstTensor v,
                                float scale) override {
    timed(ctx, "attention cached", [&] { inner_.attention_cached_forward(ctx, y, q, k, v, scale); });
  }
  int64_t attention_cached_workspace_bytes(const Context& ctx, int64_t queries, int64_t heads, int64_t kv_heads,
                                           int64_t head_dim) const override {
    return inner_.attention_cached_workspace_bytes(ctx, queries, heads, kv_heads, head_dim);
  }
  void swiglu_forward(Context& ctx, Tensor y, ConstTensor gate, ConstTensor up) override {
    timed(ctx, "swiglu", [&] { inner_.swiglu_forward(ctx, y, gate, up); });
  }
  void swiglu_backward(Context& ctx, Tensor dgate, Tensor dup, ConstTensor dy, ConstTensor gate,
                       ConstTensor up) override {
    timed(ctx, "swiglu", [&] { inner_.swiglu_backward(ctx, dgate, dup, dy, gate, up); });
  }
  void lm_head_loss_forward(Context& ctx, Tensor loss, Tensor lse, ConstTensor h, ConstTensor w,
                            ConstTensor targets) override {
    timed(ctx, "lm head forward", [&] { inner_.lm_head_loss_forward(ctx, loss, lse, h, w, targets); });
  }
  void lm_head_loss_backward(Context& ctx, Tensor dh, Tensor dw, ConstTensor h, ConstTensor w, ConstTensor targets,
                             ConstTensor lse, float scale) override {
    timed(ctx, "lm head backward", [&] { inner_.lm_head_loss_backward(ctx, dh, dw, h, w, targets, lse, scale); });
  }
  int64_t lm_head_workspace_bytes(const Context& ctx, int64_t rows, int64_t channels, int64_t vocabulary,
                                  Dtype dtype) const override {
    return inner_.lm_head_workspace_bytes(ctx, rows, channels, vocabulary, dtype);
  }
  void adamw_step(Context& ctx, Tensor w, Tensor m, Tensor v, ConstTensor grad, const AdamWStep& step) override {
    timed(ctx, "adamw", [&] { inner_.adamw_step(ctx, w, m, v, grad, step); });
  }
  void fill_zero(Context& ctx, Tensor x) override {
    timed(ctx, "elementwise", [&] { inner_.fill_zero(ctx, x); });
  }
  void cast(Context& ctx, Tensor y, ConstTensor x) override {
    timed(ctx, "elementwise", [&] { inner_.cast(ctx, y, x); });
  }
  void add(Context& ctx, Tensor y, ConstTensor a, ConstTensor b) override {
    timed(ctx, "elementwise", [&] { inner_.add(ctx, y, a, b); });
  }
  void accumulate(Context& ctx, Tensor y, ConstTensor x, float scale) override {
    timed(ctx, "elementwise", [&] { inner_.accumulate(ctx, y, x, scale); });
  }
  void squared_norm(Context& ctx, Tensor sum, ConstTensor x) override {
    timed(ctx, "elementwise", [&] { inner_.squared_norm(ctx, sum, x); });
  }
  int64_t squared_norm_workspace_bytes(const Context& ctx) const override {
    return inner_.squared_norm_workspace_bytes(ctx);
  }

 private:
  void timed(const Context& ctx, const char* name, const std::function<void()>& operation) {
    seconds_[name] += inner_.runtime().seconds(ctx.stream, operation);
  }

  Backend& inner_;
  std::map<std::string, double> seconds_;
};

}  // namespace skippipe
