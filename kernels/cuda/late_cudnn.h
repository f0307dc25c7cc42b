// What we call of cuDNN, loaded late.
#pragma once

#include <cudnn.h>

#include "kernels/cuda/late_library.h"

namespace skippipe::cuda {

inline const LateLibrary& cudnn() {
  static const LateLibrary library("libcudnn.so." + std::to_string(CUDNN_MAJOR));
  return library;
}

SKP_LATE_FUNCTION(cudnn, cudnnBackendCreateDescriptor);
SKP_LATE_FUNCTION(cudnn, cudnnBackendDestroyDescriptor);
SKP_LATE_FUNCTION(cudnn, cudnnBackendExecute);
SKP_LATE_FUNCTION(cudnn, cudnnBackendFinalize);
SKP_LATE_FUNCTION(cudnn, cudnnBackendGetAttribute);
SKP_LATE_FUNCTION(cudnn, cudnnBackendSetAttribute);
SKP_LATE_FUNCTION(cudnn, cudnnCreate);
SKP_LATE_FUNCTION(cudnn, cudnnDestroy);
SKP_LATE_FUNCTION(cudnn, cudnnGetErrorString);
SKP_LATE_FUNCTION(cudnn, cudnnGetLastErrorString);
SKP_LATE_FUNCTION(cudnn, cudnnGetVersion);
SKP_LATE_FUNCTION(cudnn, cudnnSetStream);

}  // namespace skippipe::cuda
