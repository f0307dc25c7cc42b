#pragma once

#include <memory>

#include "kernels/runtime.h"

namespace skippipe::cuda {

// Memory, streams and graphs of a GPU by the CUDA runtime. Memory is taken by plain allocation. Threads that wait for
// the device sleep.
std::unique_ptr<Runtime> make_device_runtime(int device);

}  // namespace skippipe::cuda
