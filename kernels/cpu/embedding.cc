#include <cstring>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"

namespace skippipe::cpu {

void CpuBackend::embedding_forward(Context& ctx, Tensor y, ConstTensor tokens, ConstTensor w) {
  const int64_t channels = y.dim(1);
  const int32_t* ids = tokens.as<int32_t>();
  parallel_ranges(ctx.threads, y.dim(0), row_grain(channels), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      std::memcpy(y.as<float>() + n * channels, w.as<float>() + ids[n] * channels,
                  static_cast<size_t>(channels) * sizeof(float));
  });
}

// Threads take columns, so that equal tokens need no atomics and rows are summed in order.
void CpuBackend::embedding_backward(Context& ctx, Tensor dw, ConstTensor dy, ConstTensor tokens) {
  const int64_t rows = dy.dim(0), channels = dy.dim(1);
  const int32_t* ids = tokens.as<int32_t>();
  parallel_ranges(ctx.threads, channels, row_grain(rows), [&](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < rows; ++n) {
      float* sum = dw.as<float>() + ids[n] * channels;
      const float* term = dy.as<float>() + n * channels;
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) sum[c] += term[c];
    }
  });
}

}  // namespace skippipe::cpu
