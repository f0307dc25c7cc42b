// The device that a node computes on, as users name it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "kernels/backend.h"
#include "kernels/cuda_backend.h"

namespace skippipe {

struct DeviceName {
  Device device = Device::kCpu;
  int index = 0;  // among the GPUs

  std::string to_string() const;  // "cuda:0"
  friend bool operator==(const DeviceName&, const DeviceName&) = default;
};

// "cpu", "cuda" (the first GPU) or "cuda:1". Throws ConfigError.
DeviceName parse_device(std::string_view text);

// "own", "portable" or "cudnn", as run files have it. Throws ConfigError.
AttentionKernels parse_attention_kernels(std::string_view text);

// Throws DeviceError: no such GPU here, or it can't be used.
std::unique_ptr<Backend> make_backend(const DeviceName& name, AttentionKernels attention = AttentionKernels::kOwn);

// How fast products of matrices are in bf16 over those in f32, on a backend that computes in both: the best of a few of
// 128 x 512 by 512 x 512, on one thread, since a busy machine keeps several waiting for each other. Takes some
// hundredths of a second.
double bf16_over_f32_rate(Backend& backend);
// For the user, where that rate makes bf16 the slower one on a CPU; else empty.
std::string describe_slow_bf16(double rate);

// One line for the user: what computes, and on the CPU also why no GPU does.
std::string describe_device(const DeviceName& name, const CudaDevices& found = find_cuda_devices());

}  // namespace skippipe
