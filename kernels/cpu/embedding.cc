#include <cstring>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"
#include "kernels/elements.h"

namespace skippipe::cpu {

void CpuBackend::embedding_forward(Context& ctx, Tensor y, ConstTensor tokens, ConstTensor w) {
  const int64_t row_bytes = y.dim(1) * dtype_bytes(y.dtype());
  const int32_t* ids = tokens.as<int32_t>();
  parallel_ranges(ctx.threads, y.dim(0), row_grain(y.dim(1)), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      std::memcpy(y.as<std::byte>() + n * row_bytes, w.as<std::byte>() + ids[n] * row_bytes,
                  static_cast<size_t>(row_bytes));
  });
}

// Threads take columns, so that equal tokens need no atomics and rows are summed in order.
void CpuBackend::embedding_backward(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor tokens) {
  const int64_t rows = dy.dim(0), channels = dy.dim(1);
  const int32_t* ids = tokens.as<int32_t>();
  with_element(dy.dtype(), [&](auto element) {
    using Element = decltype(element);
    parallel_ranges(ctx.threads, channels, row_grain(rows), [&](int64_t begin, int64_t end) {
      for (int64_t n = 0; n < rows; ++n) {
        float* sum = dw.as<float>() + ids[n] * channels;
        const Element* term = dy.as<Element>() + n * channels;
#pragma omp simd
        for (int64_t c = begin; c < end; ++c) sum[c] += term[c];
      }
    });
  });
}

}  // namespace skippipe::cpu
