#pragma once

#include <memory>

#include "kernels/cuda/device_limits.h"
#include "kernels/cuda/libraries.h"

namespace skippipe::cuda {

// cuDNN's attention on device `limits.index`, which is the current one, for bf16, head_dim a multiple of 8 up to 128,
// and a multiple of 128 tokens. Heads lie 16-byte aligned, dy as y does. Other tensors it does not take.
// Where it differs from the contract of kernels/attention.h:
//   - Not deterministic: dq is summed with atomics, and cuDNN promises nothing for the rest.
//   - NaN and infinity: what cuDNN makes of them.
//   - The first use of a shape compiles kernels (up to a second each) and allocates; later ones only in cuDNN itself.
//   - Scratch memory of backward: up to 4 times the bytes of y on Hopper, 6 times on Ampere.
// Throws DeviceError; here already where cuDNN has no attention for this device.
std::unique_ptr<AttentionLibrary> make_cudnn_attention(const DeviceLimits& limits);

}  // namespace skippipe::cuda
