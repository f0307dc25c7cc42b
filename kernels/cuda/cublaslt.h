#pragma once

#include <memory>

#include "kernels/cuda/device_limits.h"
#include "kernels/cuda/libraries.h"

namespace skippipe::cuda {

// cuBLASLt on the current device, which `limits` describes. f32 is f32: no TF32. Any shape, strides and alignment that
// a Matrix may have. An algorithm is chosen at a product's first use, by rule and not by time, and kept; the bits of a
// result depend on shapes, strides and alignment below 16 bytes, the GPU's model and cuBLAS's version.
// Memory: its workspace, taken here once; calls on different streams must not overlap in time.
// Throws DeviceError.
std::unique_ptr<MatrixProducts> make_cublaslt_products(const DeviceLimits& limits);

}  // namespace skippipe::cuda
