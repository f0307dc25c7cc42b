// What makers say of their GPUs.
#pragma once

#include <optional>
#include <string_view>

namespace skippipe {

// Products of bf16 matrices with sums in f32, without sparsity, in operations per second; by the name that the driver
// gives the GPU. Nothing for a GPU that the table does not have.
std::optional<double> datasheet_bf16_rate(std::string_view gpu_name);

}  // namespace skippipe
