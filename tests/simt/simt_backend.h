#pragma once

#include <memory>

#include "kernels/backend.h"

namespace skippipe::simt {

// The GPU backend over the same kernels, executed and checked on the CPU; its tensors live in host memory. Matrix
// products, which are a library's on a GPU, are plain loops. Operations throw KernelError where a kernel does what it
// may not.
std::unique_ptr<Backend> make_simt_backend();
// The same of a device with as little shared memory as any that we compile for (sm_89).
std::unique_ptr<Backend> make_small_simt_backend();
// The same of a device that the kernels for Hopper run on.
std::unique_ptr<Backend> make_hopper_simt_backend();

}  // namespace skippipe::simt
