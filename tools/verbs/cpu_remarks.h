// What a user should know of this machine's CPU before a verb computes on it.
#pragma once

#include <string>

#include "engine/model/device.h"
#include "kernels/tensor.h"

namespace skippipe {

// What a verb is to compute with.
struct ComputeChoice {
  DeviceName device;
  std::string option;  // that says how many threads, as the user knows it
  int threads = 1;
  Dtype dtype = Dtype::kF32;
};

// The threads that operations will have: on a CPU maybe fewer than asked for, if OpenMP gives no more. Throws
// ConfigError where the system can't make them.
int usable_threads(const ComputeChoice& choice);

// On standard error, for a CPU: that threads are fewer than asked for, and that bf16 is slower here than f32, which is
// measured in some hundredths of a second. Nothing else. Throws as usable_threads does.
void print_cpu_remarks(const ComputeChoice& choice);

}  // namespace skippipe
