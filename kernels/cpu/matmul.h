// Matrix products through oneDNN.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

namespace skippipe::cpu {

// An f32 matrix in memory; one of the strides is 1.
template <typename Element>
struct Matrix {
  Element* data;
  int64_t rows, columns;
  int64_t row_stride, column_stride;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
};

// Keeps a oneDNN primitive per shape, strides and thread count, and the largest scratchpad among them, so that a
// product with a known shape creates nothing. Not thread-safe.
class MatmulCache {
 public:
  MatmulCache();

  // c = a b, or c += a b
  void multiply(int threads, const Matrix<float>& c, const Matrix<const float>& a, const Matrix<const float>& b,
                bool accumulate);

 private:
  using Key = std::array<int64_t, 11>;
  struct Product {
    dnnl::matmul primitive;
    dnnl::memory a, b, c, scratch;  // descriptors; the addresses are set at each use
  };
  struct Free {
    void operator()(std::byte* p) const;
  };

  Product make_product(const Matrix<float>& c, const Matrix<const float>& a, const Matrix<const float>& b,
                       bool accumulate);

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<Key, Product> products_;
  std::unique_ptr<std::byte, Free> scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace skippipe::cpu
