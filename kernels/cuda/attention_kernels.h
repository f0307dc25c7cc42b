// Our own attention, by dtype: what attention.cu chooses from. All queue their kernels on the context's stream.
#pragma once

#include "kernels/cuda/device_limits.h"
#include "kernels/cuda/hardware.h"
#include "kernels/tensor.h"

namespace skippipe::SKP_GPU {

// What the kernels hold in registers and shared memory ends here.
inline constexpr int64_t kMaxHeadDim = 256;
inline constexpr int64_t kMaxHopperHeadDim = 128;

// delta[b,h,t] = dy[b,t,h,:] . y[b,t,h,:], laid out as lse: the backward kernels' scratch memory.
void attention_delta(Context& ctx, Global<float> delta, ConstTensor dy, ConstTensor y);
inline int64_t attention_delta_bytes(int64_t batch, int64_t tokens, int64_t heads) {
  return batch * tokens * heads * static_cast<int64_t>(sizeof(float));
}

void attention_forward_bf16(Context& ctx, const cuda::DeviceLimits& limits, Tensor y, Tensor lse, ConstTensor q,
                            ConstTensor k, ConstTensor v, float scale);
void attention_backward_bf16(Context& ctx, const cuda::DeviceLimits& limits, Tensor dq, Tensor dk, Tensor dv,
                             ConstTensor dy, ConstTensor q, ConstTensor k, ConstTensor v, ConstTensor y,
                             ConstTensor lse, float scale);
// For Hopper: heads up to kMaxHopperHeadDim, all tensors in rows of whole vectors.
void attention_forward_hopper(Context& ctx, const cuda::DeviceLimits& limits, Tensor y, Tensor lse, ConstTensor q,
                              ConstTensor k, ConstTensor v, float scale);
void attention_backward_hopper(Context& ctx, const cuda::DeviceLimits& limits, Tensor dq, Tensor dk, Tensor dv,
                               ConstTensor dy, ConstTensor q, ConstTensor k, ConstTensor v, ConstTensor y,
                               ConstTensor lse, float scale);
void attention_forward_f32(Context& ctx, const cuda::DeviceLimits& limits, Tensor y, Tensor lse, ConstTensor q,
                           ConstTensor k, ConstTensor v, float scale);
void attention_backward_f32(Context& ctx, const cuda::DeviceLimits& limits, Tensor dq, Tensor dk, Tensor dv,
                            ConstTensor dy, ConstTensor q, ConstTensor k, ConstTensor v, ConstTensor y, ConstTensor lse,
                            float scale);

}  // namespace skippipe::SKP_GPU
