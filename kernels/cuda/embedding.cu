#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/reduce.h"

namespace skippipe::SKP_GPU {

void GpuBackend::embedding_forward(Context&, Tensor, ConstTensor, ConstTensor) { throw "not yet"; }

void GpuBackend::embedding_backward(Context&, Tensor, ConstTensor, ConstTensor) { throw "not yet"; }

}  // namespace skippipe::SKP_GPU
