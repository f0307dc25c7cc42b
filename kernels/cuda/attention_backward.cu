#include "kernels/cuda/backend_impl.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/reduce.h"

namespace skippipe::SKP_GPU {

void GpuBackend::attention_backward(Context&, Tensor, Tensor, Tensor, ConstTensor, ConstTensor, ConstTensor,
                                    ConstTensor, ConstTensor, ConstTensor, float) {
  throw "not yet";
}

}  // namespace skippipe::SKP_GPU
