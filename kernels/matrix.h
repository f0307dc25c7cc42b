// Matrices as the backends hand them to their libraries.
#pragma once

#include "kernels/tensor.h"

namespace skippipe {

// A matrix in memory; one of the strides is 1. Void is void for one that may be written, const void for others.
template <typename Void>
struct BasicMatrix {
  Void* data;
  Dtype dtype;  // f32 or bf16
  int64_t rows, columns;
  int64_t row_stride, column_stride;

  // A matrix that may be written is also one that may be read.
  operator BasicMatrix<const void>() const {  // NOLINT
    return {data, dtype, rows, columns, row_stride, column_stride};
  }
  BasicMatrix transposed() const { return {data, dtype, columns, rows, column_stride, row_stride}; }
};
using Matrix = BasicMatrix<void>;
using ConstMatrix = BasicMatrix<const void>;

// Rows [begin, begin + count) of (N,C).
template <typename Void>
BasicMatrix<Void> matrix_rows(const BasicTensor<Void>& x, int64_t begin, int64_t count) {
  return {x.slice(0, begin, count).data(), x.dtype(), count, x.dim(1), x.stride(0), 1};
}

}  // namespace skippipe
