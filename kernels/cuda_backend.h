#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace skippipe {

struct CudaDevice {
  int index;
  std::string name;
  int capability;  // 10 x major + minor, e.g. 90
  int64_t memory_bytes;
  int multiprocessors;
  bool has_images;                  // whether this program's kernels were compiled for it
  bool has_hopper_kernels = false;  // whether there are kernels for it beside the portable ones
};

// What this program can use. Never throws for want of a GPU, a driver or a build with CUDA: then there are no devices,
// and `why_none` says why, for the user.
struct CudaDevices {
  std::vector<CudaDevice> list;
  std::string why_none;
  std::string built_for = {};  // "80, 89, 90a"; empty without CUDA
};
CudaDevices find_cuda_devices();

enum class AttentionKernels { kOwn, kPortable, kCudnn };

// A GPU: cuBLASLt for matrix products, our own kernels for the rest; with kPortable, those for all devices, even where
// there are others for this one; with kCudnn, cuDNN's attention where it takes
// the tensors (bf16, D a multiple of 8 up to 128, T a multiple of 128), whose backward is not bitwise repeatable and
// needs several times y's bytes of scratch memory. Operations are queued on Context::stream. Memory for libraries is
// taken here, once. The caller's thread has `device` as its current device afterwards; every thread that uses the
// backend must. Throws DeviceError: no such device, no image of our kernels for it, a library that fails.
std::unique_ptr<Backend> make_cuda_backend(int device, AttentionKernels attention = AttentionKernels::kOwn);

}  // namespace skippipe
