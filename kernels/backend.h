// What a device can compute: one pure virtual per operation, so that a missing one does not compile.
#pragma once

#include "kernels/adamw.h"
#include "kernels/context.h"
#include "kernels/runtime.h"
#include "kernels/tensor.h"

namespace skippipe {

// The free functions of kernels/*.h hold the contracts, check the arguments and call these, which check nothing.
// A backend keeps what its libraries need (primitives, handles, their scratch memory). Not thread-safe: one backend
// per node, used by the thread that owns the node's Context.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const char* name() const = 0;
  virtual Device device() const = 0;
  virtual Runtime& runtime() = 0;
  // Whether activations and weights may have this dtype. (fill_zero and cast know every dtype.)
  virtual bool computes_in(Dtype dtype) const = 0;

  // matmul.h
  virtual void linear_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w) = 0;
  virtual void linear_backward_input(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor w, bool accumulate) = 0;
  virtual void linear_backward_weight(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x) = 0;
  // embedding.h
  virtual void embedding_forward(Context& ctx, Tensor y, ConstTensor tokens, ConstTensor w) = 0;
  virtual void embedding_backward(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor tokens) = 0;
  // rmsnorm.h
  virtual void rmsnorm_forward(Context& ctx, Tensor y, Tensor rrms, ConstTensor x, ConstTensor w, float eps) = 0;
  virtual void add_rmsnorm_forward(Context& ctx, Tensor y, Tensor sum, Tensor rrms, ConstTensor x, ConstTensor residual,
                                   ConstTensor w, float eps) = 0;
  virtual void rmsnorm_backward(Context& ctx, Tensor dx, Tensor dw, ConstTensor dy, ConstTensor x, ConstTensor w,
                                ConstTensor rrms, ConstTensor dresidual) = 0;
  virtual int64_t rmsnorm_backward_workspace_bytes(const Context& ctx, int64_t channels) const = 0;
  // rope.h
  virtual void rope_forward(Context& ctx, Tensor x, ConstTensor cos, ConstTensor sin) = 0;
  virtual void rope_backward(Context& ctx, Tensor dx, ConstTensor cos, ConstTensor sin) = 0;
  // attention.h
  virtual void attention_forward(Context& ctx, Tensor y, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                                 float scale) = 0;
  virtual void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy, ConstTensor q,
                                  ConstTensor k, ConstTensor v, ConstTensor y, ConstTensor lse, float scale) = 0;
  virtual int64_t attention_workspace_bytes(const Context& ctx, int64_t batch, int64_t tokens, int64_t heads,
                                            int64_t kv_heads, int64_t head_dim) const = 0;
  // attention_cached.h
  virtual void attention_cached_forward(Context& ctx, Tensor y, ConstTensor q, ConstTensor k, ConstTensor v,
                                        float scale) = 0;
  virtual int64_t attention_cached_workspace_bytes(const Context& ctx, int64_t queries, int64_t heads, int64_t kv_heads,
                                                   int64_t head_dim) const = 0;
  // swiglu.h
  virtual void swiglu_forward(Context& ctx, Tensor y, ConstTensor gate, ConstTensor up) = 0;
  virtual void swiglu_backward(Context& ctx, Tensor dgate, Tensor dup, ConstTensor dy, ConstTensor gate,
                               ConstTensor up) = 0;
  // lm_head.h
  virtual void lm_head_loss_forward(Context& ctx, Tensor loss, Tensor lse, ConstTensor h, ConstTensor w,
                                    ConstTensor targets) = 0;
  virtual void lm_head_loss_backward(Context& ctx, Tensor dh, Tensor dw, ConstTensor h, ConstTensor w,
                                     ConstTensor targets, ConstTensor lse, float scale) = 0;
  virtual int64_t lm_head_workspace_bytes(const Context& ctx, int64_t rows, int64_t channels, int64_t vocabulary,
                                          Dtype dtype) const = 0;
  // adamw.h
  virtual void adamw_step(Context& ctx, Tensor w, Tensor m, Tensor v, ConstTensor grad, const AdamWStep& step) = 0;
  // elementwise.h
  virtual void fill_zero(Context& ctx, Tensor x) = 0;
  virtual void cast(Context& ctx, Tensor y, ConstTensor x) = 0;
  virtual void add(Context& ctx, Tensor y, ConstTensor a, ConstTensor b) = 0;
  virtual void accumulate(Context& ctx, Tensor y, ConstTensor x, float scale) = 0;
  virtual void squared_norm(Context& ctx, Tensor sum, ConstTensor x) = 0;
  virtual int64_t squared_norm_workspace_bytes(const Context& ctx) const = 0;
};

}  // namespace skippipe
