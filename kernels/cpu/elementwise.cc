#include <cstring>

#include "base/float_formats.h"
#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"

namespace skippipe::cpu {
namespace {

// squared_norm sums this many ranges apart, whatever the number of threads.
constexpr int64_t kNormParts = 256;

// Loops stand in functions of their own: read through a lambda's captures, their pointers would be reloaded at each
// step, and nothing would be vectorized.
void widen(float* y, const uint16_t* x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = bf16_to_float(x[i]);
}

void narrow(uint16_t* y, const float* x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = float_to_bf16(x[i]);
}

double sum_of_squares(const float* x, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace

void CpuBackend::fill_zero(Context& ctx, Tensor x) {
  parallel_ranges(ctx.threads, x.bytes(), kElementGrain * 4, [&](int64_t begin, int64_t end) {
    std::memset(x.as<char>() + begin, 0, static_cast<size_t>(end - begin));
  });
}

void CpuBackend::cast(Context& ctx, Tensor y, ConstTensor x) {
  parallel_ranges(ctx.threads, x.elements(), kElementGrain, [&](int64_t begin, int64_t end) {
    if (x.dtype() == y.dtype()) {
      const int64_t size = dtype_bytes(x.dtype());
      std::memcpy(y.as<char>() + begin * size, x.as<char>() + begin * size, static_cast<size_t>((end - begin) * size));
    } else if (x.dtype() == Dtype::kBf16) {
      widen(y.as<float>() + begin, x.as<uint16_t>() + begin, end - begin);
    } else {
      narrow(y.as<uint16_t>() + begin, x.as<float>() + begin, end - begin);
    }
  });
}

void CpuBackend::add(Context& ctx, Tensor y, ConstTensor a, ConstTensor b) {
  parallel_ranges(ctx.threads, y.elements(), kElementGrain, [&](int64_t begin, int64_t end) {
    float* out = y.as<float>();
    const float* left = a.as<float>();
    const float* right = b.as<float>();
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] = left[i] + right[i];
  });
}

int64_t CpuBackend::squared_norm_workspace_bytes(const Context&) const {
  return kNormParts * static_cast<int64_t>(sizeof(double));
}

void CpuBackend::squared_norm(Context& ctx, Tensor sum, ConstTensor x) {
  const int64_t count = x.elements();
  double* parts = reinterpret_cast<double*>(ctx.workspace.data());
  const int64_t grain = std::max<int64_t>(1, kElementGrain * kNormParts / (count + 1));
  parallel_ranges(ctx.threads, kNormParts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = count * part / kNormParts, last = count * (part + 1) / kNormParts;
      parts[part] = sum_of_squares(x.as<float>() + first, last - first);
    }
  });
  double total = 0;
  for (int64_t part = 0; part < kNormParts; ++part) total += parts[part];
  *sum.as<float>() = static_cast<float>(total);
}

}  // namespace skippipe::cpu
