#include <cstring>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd.h"
#include "kernels/elements.h"

namespace skippipe::cpu {
namespace {

// squared_norm sums this many ranges apart, whatever the number of threads.
constexpr int64_t kNormParts = 256;

template <typename To, typename From>
void convert(To* y, const From* x, int64_t count) {
  for_each_vec(count, [=](int64_t i, auto access) { access.store(y + i, access.load(x + i)); });
}

template <typename Element>
void add_elements(Element* y, const Element* a, const Element* b, int64_t count) {
  for_each_vec(count, [=](int64_t i, auto access) { access.store(y + i, access.load(a + i) + access.load(b + i)); });
}

template <typename Element>
void add_scaled(float* y, const Element* x, float scale, int64_t count) {
  for_each_vec(count,
               [=](int64_t i, auto access) { access.store(y + i, access.load(y + i) + scale * access.load(x + i)); });
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
      convert(y.as<float>() + begin, x.as<Bf16>() + begin, end - begin);
    } else {
      convert(y.as<Bf16>() + begin, x.as<float>() + begin, end - begin);
    }
  });
}

void CpuBackend::add(Context& ctx, Tensor y, ConstTensor a, ConstTensor b) {
  with_element(y.dtype(), [&](auto element) {
    using Element = decltype(element);
    parallel_ranges(ctx.threads, y.elements(), kElementGrain, [&](int64_t begin, int64_t end) {
      add_elements(y.as<Element>() + begin, a.as<Element>() + begin, b.as<Element>() + begin, end - begin);
    });
  });
}

void CpuBackend::accumulate(Context& ctx, Tensor y, ConstTensor x, float scale) {
  with_element(x.dtype(), [&](auto element) {
    using Element = decltype(element);
    parallel_ranges(ctx.threads, y.elements(), kElementGrain, [&](int64_t begin, int64_t end) {
      add_scaled(y.as<float>() + begin, x.as<Element>() + begin, scale, end - begin);
    });
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
