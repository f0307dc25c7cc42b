#pragma once

#include <chrono>
#include <memory>

#include "kernels/communicator.h"
#include "kernels/cuda/late_nccl.h"
#include "kernels/runtime.h"

namespace skippipe::SKP_GPU {

// Loads NCCL; throws DeviceError where there is none, or none that can be used. The runtime, whose device is to be
// connected, outlives what is returned. end_limit: how long a communicator waits at its end for NCCL, which waits for
// threads of its own when it aborts, and they for calls of the network.
std::unique_ptr<CommunicatorLibrary> load_nccl(Runtime& runtime,
                                               std::chrono::milliseconds end_limit = std::chrono::seconds(10));

}  // namespace skippipe::SKP_GPU
