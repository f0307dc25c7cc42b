#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/reduce.h"

namespace skippipe::SKP_GPU {

void GpuBackend::rope_forward(Context&, Tensor, ConstTensor, ConstTensor) { throw "not yet"; }

void GpuBackend::rope_backward(Context&, Tensor, ConstTensor, ConstTensor) { throw "not yet"; }

}  // namespace skippipe::SKP_GPU
