// What this program was built for, and whether the machine has that.
#pragma once

#include <string>
#include <string_view>

namespace skippipe::cuda {

// Kernels use asynchronous copies and products of bf16, which came with it. All capabilities are 10 x major + minor.
inline constexpr int kLeastCapability = 80;

// As the user knows them from SKIPPIPE_CUDA_ARCHITECTURES: "80, 89, 90a".
std::string built_targets();
// Whether one of these targets runs on a device: `targets` are CMake's, such as "80-real,89,90a-real".
bool any_target_runs_on(std::string_view targets, int capability);
// Whether this program's kernels do.
bool runs_on(int capability);
// Whether the kernels of hopper.h were compiled for it.
bool has_hopper_kernels(int capability);

// "12.4" for CUDA's 12040.
std::string version_text(int version);
// Why CUDA says that the driver is insufficient: none, or one that is too old.
std::string driver_problem();

}  // namespace skippipe::cuda
