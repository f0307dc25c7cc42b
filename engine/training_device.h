#pragma once

#include <string>

#include "kernels/cuda_backend.h"

namespace skippipe {

// What this program trains and measures on, in one line for the user: the CPU, and why no GPU.
std::string training_device(const CudaDevices& found = find_cuda_devices());

}  // namespace skippipe
