#include <cmath>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"
#include "kernels/elements.h"

namespace skippipe::cpu {
namespace {

// dw is summed in at most this many blocks of rows, whatever the number of threads, so that it does not depend on it.
constexpr int64_t kMaxBlocks = 64;
constexpr int64_t kMinRowsPerBlock = 8;

template <typename Element>
float reciprocal_rms(const Element* x, int64_t channels, float eps) {
  Vec squares{};
  for_each_vec(channels, [&](int64_t c, auto access) {
    const Vec value = access.load(x + c);
    squares += value * value;
  });
  return 1.0f / std::sqrt(sum_lanes(squares) / static_cast<float>(channels) + eps);
}

template <typename Element>
void normalize(Element* y, const Element* x, const Element* w, float rrms, int64_t channels) {
  for_each_vec(channels,
               [=](int64_t c, auto access) { access.store(y + c, access.load(x + c) * rrms * access.load(w + c)); });
}

// One row's dx; adds its part of dw. dresidual may be null. Every element is read before it is written, because dx may
// be dy or dresidual.
template <typename Element>
void backward_row(Element* dx, float* dw, const Element* dy, const Element* x, const Element* w,
                  const Element* dresidual, float rrms, int64_t channels) {
  Vec dot{};
  for_each_vec(channels, [&](int64_t c, auto access) {
    const Vec product = access.load(dy + c) * access.load(x + c);
    dot += product * access.load(w + c);
    access.store(dw + c, access.load(dw + c) + product * rrms);
  });
  const float mean = sum_lanes(dot) * rrms * rrms / static_cast<float>(channels);
  for_each_vec(channels, [=](int64_t c, auto access) {
    const Vec own = rrms * (access.load(w + c) * access.load(dy + c) - access.load(x + c) * mean);
    access.store(dx + c, dresidual == nullptr ? own : own + access.load(dresidual + c));
  });
}

}  // namespace

void CpuBackend::rmsnorm_forward(Context& ctx, Tensor y, Tensor rrms, ConstTensor x, ConstTensor w, float eps) {
  const int64_t channels = x.dim(1);
  with_element(x.dtype(), [&](auto element) {
    using Element = decltype(element);
    parallel_ranges(ctx.threads, x.dim(0), row_grain(channels), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const Element* row = x.as<Element>() + n * channels;
        const float scale = reciprocal_rms(row, channels, eps);
        rrms.as<float>()[n] = scale;
        normalize(y.as<Element>() + n * channels, row, w.as<Element>(), scale, channels);
      }
    });
  });
}

void CpuBackend::add_rmsnorm_forward(Context& ctx, Tensor y, Tensor sum, Tensor rrms, ConstTensor x,
                                     ConstTensor residual, ConstTensor w, float eps) {
  const int64_t channels = x.dim(1);
  with_element(x.dtype(), [&](auto element) {
    using Element = decltype(element);
    parallel_ranges(ctx.threads, x.dim(0), row_grain(channels), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        Element* row = sum.as<Element>() + n * channels;
        const Element* a = x.as<Element>() + n * channels;
        const Element* b = residual.as<Element>() + n * channels;
        for_each_vec(channels,
                     [=](int64_t c, auto access) { access.store(row + c, access.load(a + c) + access.load(b + c)); });
        const float scale = reciprocal_rms(row, channels, eps);
        rrms.as<float>()[n] = scale;
        normalize(y.as<Element>() + n * channels, row, w.as<Element>(), scale, channels);
      }
    });
  });
}

int64_t CpuBackend::rmsnorm_backward_workspace_bytes(const Context&, int64_t channels) const {
  return element_count({kMaxBlocks, channels, static_cast<int64_t>(sizeof(float))});
}

void CpuBackend::rmsnorm_backward(Context& ctx, Tensor dx, Tensor dw, ConstTensor dy, ConstTensor x, ConstTensor w,
                                  ConstTensor rrms, ConstTensor dresidual) {
  const int64_t rows = x.dim(0), channels = x.dim(1);
  const int64_t blocks = std::clamp<int64_t>(rows / kMinRowsPerBlock, 1, kMaxBlocks);
  float* partial = reinterpret_cast<float*>(ctx.workspace.data());
  with_element(x.dtype(), [&](auto element) {
    using Element = decltype(element);
    parallel_items(ctx.threads, blocks, [&](int, int64_t block) {
      float* block_dw = partial + block * channels;
      std::fill_n(block_dw, channels, 0.0f);
      for (int64_t n = rows * block / blocks; n < rows * (block + 1) / blocks; ++n) {
        const int64_t at = n * channels;
        backward_row(dx.as<Element>() + at, block_dw, dy.as<Element>() + at, x.as<Element>() + at, w.as<Element>(),
                     dresidual.empty() ? nullptr : dresidual.as<Element>() + at, rrms.as<float>()[n], channels);
      }
    });
  });
  parallel_ranges(ctx.threads, channels, row_grain(blocks), [&](int64_t begin, int64_t end) {
    for (int64_t block = 0; block < blocks; ++block)
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) dw.as<float>()[c] += partial[block * channels + c];
  });
}

}  // namespace skippipe::cpu
