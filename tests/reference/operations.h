// What the operations compute, as plain loops over doubles that share nothing with the implementations. Arrays are
// row-major with the shapes of the contracts (kernels/*.h); gradients are those of sum(outputs * their gradients).
#pragma once

#include <cstdint>
#include <vector>

namespace skippipe::reference {

using Array = std::vector<double>;
using Ids = std::vector<int32_t>;

// y (N,O) = x (N,I) w (O,I)^T
Array linear(const Array& x, const Array& w, int64_t rows, int64_t inputs, int64_t outputs);
Array linear_dx(const Array& dy, const Array& w, int64_t rows, int64_t inputs, int64_t outputs);
Array linear_dw(const Array& dy, const Array& x, int64_t rows, int64_t inputs, int64_t outputs);

Array embedding(const Ids& tokens, const Array& w, int64_t channels);
Array embedding_dw(const Array& dy, const Ids& tokens, int64_t vocabulary, int64_t channels);

struct RmsNorm {
  Array y, rrms;
};
RmsNorm rmsnorm(const Array& x, const Array& w, int64_t channels, double eps);
struct RmsNormGrad {
  Array dx, dw;
};
RmsNormGrad rmsnorm_grad(const Array& dy, const Array& x, const Array& w, int64_t channels, double eps);

// x (B,T,H,D); cos, sin (T,D/2). direction -1 is the transpose.
Array rope(const Array& x, const Array& cos, const Array& sin, int64_t batch, int64_t tokens, int64_t heads,
           int64_t head_dim, int direction);

struct AttentionShape {
  int64_t batch, tokens, heads, kv_heads, head_dim;
};
struct Attention {
  Array y, lse;
};
Attention attention(const Array& q, const Array& k, const Array& v, const AttentionShape& shape, double scale);
struct AttentionGrad {
  Array dq, dk, dv;
};
AttentionGrad attention_grad(const Array& dy, const Array& q, const Array& k, const Array& v,
                             const AttentionShape& shape, double scale);

Array swiglu(const Array& gate, const Array& up);
struct SwigluGrad {
  Array dgate, dup;
};
SwigluGrad swiglu_grad(const Array& dy, const Array& gate, const Array& up);

struct LmHead {
  double loss;
  Array lse;
};
LmHead lm_head(const Array& h, const Array& w, const Ids& targets, int64_t channels, int64_t vocabulary);
struct LmHeadGrad {
  Array dh, dw;
};
LmHeadGrad lm_head_grad(const Array& h, const Array& w, const Ids& targets, int64_t channels, int64_t vocabulary,
                        double scale);

struct AdamW {
  Array w, m, v;
};
struct AdamWScalars {
  double learning_rate, beta1, beta2, eps, weight_decay, grad_scale;
  int64_t step;
};
AdamW adamw(AdamW state, const Array& grad, const AdamWScalars& scalars);

}  // namespace skippipe::reference
