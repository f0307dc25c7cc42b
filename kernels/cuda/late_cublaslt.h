// What we call of cuBLASLt, loaded late.
#pragma once

#include <cublasLt.h>

#include "kernels/cuda/late_library.h"

namespace skippipe::cuda {

inline const LateLibrary& cublaslt() {
  static const LateLibrary library("libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR));
  return library;
}

SKP_LATE_FUNCTION(cublaslt, cublasLtCreate);
SKP_LATE_FUNCTION(cublaslt, cublasLtDestroy);
SKP_LATE_FUNCTION(cublaslt, cublasLtGetStatusName);
SKP_LATE_FUNCTION(cublaslt, cublasLtMatmul);
SKP_LATE_FUNCTION(cublaslt, cublasLtMatmulAlgoGetHeuristic);
SKP_LATE_FUNCTION(cublaslt, cublasLtMatmulDescCreate);
SKP_LATE_FUNCTION(cublaslt, cublasLtMatmulDescDestroy);
SKP_LATE_FUNCTION(cublaslt, cublasLtMatmulDescSetAttribute);
SKP_LATE_FUNCTION(cublaslt, cublasLtMatmulPreferenceCreate);
SKP_LATE_FUNCTION(cublaslt, cublasLtMatmulPreferenceDestroy);
SKP_LATE_FUNCTION(cublaslt, cublasLtMatmulPreferenceSetAttribute);
SKP_LATE_FUNCTION(cublaslt, cublasLtMatrixLayoutCreate);
SKP_LATE_FUNCTION(cublaslt, cublasLtMatrixLayoutDestroy);

}  // namespace skippipe::cuda
