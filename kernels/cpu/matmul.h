// Matrix products through oneDNN.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/tensor.h"

namespace skippipe::cpu {

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

// Whether oneDNN multiplies matrices of this dtype on this processor.
bool matmul_knows(Dtype dtype);

// Keeps a oneDNN primitive per shape, strides, dtypes and thread count, and the largest scratchpad among them, so that
// a product with a known shape creates nothing. Not thread-safe.
class MatmulCache {
 public:
  MatmulCache();

  // c = a b, or c += a b; a and b of one dtype. Sums are in f32.
  void multiply(int threads, const Matrix& c, const ConstMatrix& a, const ConstMatrix& b, bool accumulate);

 private:
  using Key = std::array<int64_t, 13>;
  struct Product {
    dnnl::matmul primitive;
    dnnl::memory a, b, c, scratch;  // descriptors; the addresses are set at each use
  };
  struct Free {
    void operator()(std::byte* p) const;
  };

  Product make_product(const Matrix& c, const ConstMatrix& a, const ConstMatrix& b, bool accumulate);

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<Key, Product> products_;
  std::unique_ptr<std::byte, Free> scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace skippipe::cpu
