// The GPU backend's class; make_cuda_backend (kernels/cuda_backend.h) is how others get one. Tests compile it a second
// time, for their execution of kernels on the CPU.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/cuda/device_limits.h"
#include "kernels/cuda/hardware.h"
#include "kernels/cuda/libraries.h"

namespace skippipe::SKP_GPU {

// The operations stand in kernels/cuda/*.cu, named as their contracts are.
class GpuBackend final : public Backend {
 public:
  // Without a library for attention, all of it is ours.
  GpuBackend(const cuda::DeviceLimits& limits, std::unique_ptr<Runtime> runtime,
             std::unique_ptr<cuda::MatrixProducts> products,
             std::unique_ptr<cuda::AttentionLibrary> attention = nullptr)
      : limits_(limits),
        runtime_(std::move(runtime)),
        products_(std::move(products)),
        attention_(std::move(attention)) {}

  const char* name() const override { return kBackendName; }
  Device device() const override { return Device::kCuda; }
  Runtime& runtime() override { return *runtime_; }
  bool computes_in(Dtype dtype) const override { return products_->computes_in(dtype); }

  // matmul.h
  void linear_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w) override;
  void linear_backward_input(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor w, bool accumulate) override;
  void linear_backward_weight(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x) override;
  // embedding.h
  void embedding_forward(Context& ctx, Tensor y, ConstTensor tokens, ConstTensor w) override;
  void embedding_backward(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor tokens) override;
  // rmsnorm.h
  void rmsnorm_forward(Context& ctx, Tensor y, Tensor rrms, ConstTensor x, ConstTensor w, float eps) override;
  void add_rmsnorm_forward(Context& ctx, Tensor y, Tensor sum, Tensor rrms, ConstTensor x, ConstTensor residual,
                           ConstTensor w, float eps) override;
  void rmsnorm_backward(Context& ctx, Tensor dx, Tensor dw, ConstTensor dy, ConstTensor x, ConstTensor w,
                        ConstTensor rrms, ConstTensor dresidual) override;
  int64_t rmsnorm_backward_workspace_bytes(const Context& ctx, int64_t channels) const override;
  // rope.h
  void rope_forward(Context& ctx, Tensor x, ConstTensor cos, ConstTensor sin) override;
  void rope_backward(Context& ctx, Tensor dx, ConstTensor cos, ConstTensor sin) override;
  // attention.h
  void attention_forward(Context& ctx, Tensor y, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                         float scale) override;
  void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy, ConstTensor q, ConstTensor k,
                          ConstTensor v, ConstTensor y, ConstTensor lse, float scale) override;
  int64_t attention_workspace_bytes(const Context& ctx, int64_t batch, int64_t tokens, int64_t heads, int64_t kv_heads,
                                    int64_t head_dim) const override;
  // attention_cached.h
  void attention_cached_forward(Context& ctx, Tensor y, ConstTensor q, ConstTensor k, ConstTensor v,
                                float scale) override;
  int64_t attention_cached_workspace_bytes(const Context& ctx, int64_t queries, int64_t heads, int64_t kv_heads,
                                           int64_t head_dim) const override;
  // swiglu.h
  void swiglu_forward(Context& ctx, Tensor y, ConstTensor gate, ConstTensor up) override;
  void swiglu_backward(Context& ctx, Tensor dgate, Tensor dup, ConstTensor dy, ConstTensor gate,
                       ConstTensor up) override;
  // lm_head.h
  void lm_head_loss_forward(Context& ctx, Tensor loss, Tensor lse, ConstTensor h, ConstTensor w,
                            ConstTensor targets) override;
  void lm_head_loss_backward(Context& ctx, Tensor dh, Tensor dw, ConstTensor h, ConstTensor w, ConstTensor targets,
                             ConstTensor lse, float scale) override;
  int64_t lm_head_workspace_bytes(const Context& ctx, int64_t rows, int64_t channels, int64_t vocabulary,
                                  Dtype dtype) const override;
  // adamw.h
  void adamw_step(Context& ctx, Tensor w, Tensor m, Tensor v, ConstTensor grad, const AdamWStep& step) override;
  // elementwise.h
  void fill_zero(Context& ctx, Tensor x) override;
  void cast(Context& ctx, Tensor y, ConstTensor x) override;
  void add(Context& ctx, Tensor y, ConstTensor a, ConstTensor b) override;
  void accumulate(Context& ctx, Tensor y, ConstTensor x, float scale) override;
  void squared_norm(Context& ctx, Tensor sum, ConstTensor x) override;
  int64_t squared_norm_workspace_bytes(const Context& ctx) const override;

 private:
  const cuda::DeviceLimits limits_;
  const std::unique_ptr<Runtime> runtime_;  // first, as the libraries free what they took of it
  const std::unique_ptr<cuda::MatrixProducts> products_;
  const std::unique_ptr<cuda::AttentionLibrary> attention_;
};

}  // namespace skippipe::SKP_GPU
