// Where sources of g++'s reach what only nvcc compiles.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/cuda/device_limits.h"
#include "kernels/cuda/libraries.h"

namespace skippipe::cuda {

// Throws DeviceError unless the current device can run what this program's kernels were compiled to.
void require_image();

std::unique_ptr<Backend> make_gpu_backend(const DeviceLimits& limits, std::unique_ptr<Runtime> runtime,
                                          std::unique_ptr<MatrixProducts> products,
                                          std::unique_ptr<AttentionLibrary> attention);

}  // namespace skippipe::cuda
