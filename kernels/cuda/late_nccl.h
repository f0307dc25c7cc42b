// What we call of NCCL, loaded late. Tests compile what uses it a second time with a simulated NCCL,
// tests/simt/include/kernels/cuda/late_nccl.h; what changes here changes there.
#pragma once

#include <nccl.h>

#include "kernels/cuda/late_library.h"

#define SKP_GPU cuda  // as kernels/cuda/hardware.h

namespace skippipe::cuda {

inline const LateLibrary& nccl() {
  static const LateLibrary library("libnccl.so." + std::to_string(NCCL_MAJOR));
  return library;
}

SKP_LATE_FUNCTION(nccl, ncclAllReduce);
SKP_LATE_FUNCTION(nccl, ncclCommAbort);
SKP_LATE_FUNCTION(nccl, ncclCommGetAsyncError);
SKP_LATE_FUNCTION(nccl, ncclCommInitRankConfig);
SKP_LATE_FUNCTION(nccl, ncclGetErrorString);
SKP_LATE_FUNCTION(nccl, ncclGetLastError);
SKP_LATE_FUNCTION(nccl, ncclGetUniqueId);
SKP_LATE_FUNCTION(nccl, ncclGetVersion);

}  // namespace skippipe::cuda
