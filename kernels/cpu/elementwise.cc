#include <bit>
#include <cstring>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"

namespace skippipe::cpu {
namespace {

// squared_norm sums this many ranges apart, whatever the number of threads.
constexpr int64_t kNormParts = 256;

float from_bf16(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

// To nearest, ties to even; a NaN stays one.
uint16_t to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
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
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) y.as<float>()[i] = from_bf16(x.as<uint16_t>()[i]);
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) y.as<uint16_t>()[i] = to_bf16(x.as<float>()[i]);
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
  parallel_ranges(ctx.threads, kNormParts, std::max<int64_t>(1, kElementGrain * kNormParts / (count + 1)),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t part = begin; part < end; ++part) {
                      double squares = 0;
#pragma omp simd reduction(+ : squares)
                      for (int64_t i = count * part / kNormParts; i < count * (part + 1) / kNormParts; ++i) {
                        const double value = x.as<float>()[i];
                        squares += value * value;
                      }
                      parts[part] = squares;
                    }
                  });
  double total = 0;
  for (int64_t part = 0; part < kNormParts; ++part) total += parts[part];
  *sum.as<float>() = static_cast<float>(total);
}

}  // namespace skippipe::cpu
