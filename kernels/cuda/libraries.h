// What the backend leaves to libraries: matrix products, and attention where the user chooses so. The tests' execution
// of kernels on the CPU brings products of its own.
#pragma once

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace skippipe::cuda {

class MatrixProducts {
 public:
  virtual ~MatrixProducts() = default;
  virtual bool computes_in(Dtype dtype) const = 0;
  // c = a b, or c += a b, queued on ctx's stream; a and b of one dtype, sums in f32. Deterministic: bitwise.
  virtual void multiply(Context& ctx, const Matrix& c, const ConstMatrix& a, const ConstMatrix& b, bool accumulate) = 0;
};

struct AttentionShape {
  int64_t batch, tokens, heads, kv_heads, head_dim;
};

// Attention under the contract of kernels/attention.h.
class AttentionLibrary {
 public:
  virtual ~AttentionLibrary() = default;
  // What it says no to, our own kernels do.
  virtual bool takes(const AttentionShape& shape, Dtype dtype) const = 0;
  virtual int64_t workspace_bytes(const AttentionShape& shape) = 0;
  virtual void forward(Context& ctx, Tensor y, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       float scale) = 0;
  virtual void backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor y, ConstTensor lse, float scale) = 0;
};

}  // namespace skippipe::cuda
