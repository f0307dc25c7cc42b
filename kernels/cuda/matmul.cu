#include "kernels/cuda/backend_impl.h"

namespace skippipe::SKP_GPU {
namespace {

template <typename Void>
BasicMatrix<Void> matrix(const BasicTensor<Void>& x) {
  return matrix_rows(x, 0, x.dim(0));
}

}  // namespace

void GpuBackend::linear_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w) {
  products_->multiply(ctx, matrix(y), matrix(x), matrix(w).transposed(), false);
}

void GpuBackend::linear_backward_input(Context& ctx, Tensor dx, ConstTensor dy, ConstTensor w, bool accumulate) {
  products_->multiply(ctx, matrix(dx), matrix(dy), matrix(w), accumulate);
}

void GpuBackend::linear_backward_weight(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor x) {
  products_->multiply(ctx, matrix(dw), matrix(dy).transposed(), matrix(x), true);
}

}  // namespace skippipe::SKP_GPU
