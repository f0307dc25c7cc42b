// Matrix products through oneDNN.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/cpu/thread_team.h"
#include "kernels/matrix.h"

namespace skippipe::cpu {

// Whether oneDNN multiplies matrices of this dtype on this processor.
bool matmul_knows(Dtype dtype);

// Keeps a oneDNN primitive per shape, strides, dtypes and thread count, and the largest scratchpad among them, so that
// a product with a known shape creates nothing. Not thread-safe.
class MatmulCache {
 public:
  MatmulCache();

  // c = a b, or c += a b; a and b of one dtype. Sums are in f32. On so many threads, or those that OpenMP gives.
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
  TeamForLibraries::Known team_;
  std::map<Key, Product> products_;
  std::unique_ptr<std::byte, Free> scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace skippipe::cpu
