// What the backend leaves to libraries: matrix products, and attention where the user chooses so. The tests' execution
// of kernels on the CPU brings products of its own.
#pragma once

#include <compare>
#include <cstdint>

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
  auto operator<=>(const AttentionShape&) const = default;
};

// Attention under the contract of kernels/attention.h, for the tensors that it takes.
class AttentionLibrary {
 public:
  virtual ~AttentionLibrary() = default;
  // Enough for forward and backward, as the engine lays its tensors out; 0 where it does not take the shape.
  virtual int64_t workspace_bytes(const AttentionShape& shape) = 0;
  // Queues the work on ctx's stream and returns true; or queues nothing and returns false: our own kernels do it.
  virtual bool forward(Context& ctx, Tensor y, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       float scale) = 0;
  virtual bool backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dy, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor y, ConstTensor lse, float scale) = 0;
};

}  // namespace skippipe::cuda
