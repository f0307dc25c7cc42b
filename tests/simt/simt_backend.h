#pragma once

#include <memory>

#include "kernels/backend.h"
#include "tests/simt/simt_runtime.h"

namespace skippipe::simt {

// The GPU backend over the same kernels, executed and checked on the CPU, and a device's memory and streams that behave
// as a GPU's (simt_runtime.h). Matrix products, which are a library's on a GPU, are plain loops. Where a kernel does
// what it may not, the operation throws KernelError, or on a stream whatever waits for it.
std::unique_ptr<Backend> make_simt_backend(const SimtOptions& options = {});
// The same of a device with as little shared memory as any that we compile for (sm_89).
std::unique_ptr<Backend> make_small_simt_backend(const SimtOptions& options = {});
// The same of a device that the kernels for Hopper run on.
std::unique_ptr<Backend> make_hopper_simt_backend(const SimtOptions& options = {});

}  // namespace skippipe::simt
