#include "tools/bench_kernels/ceilings.h"

#include <algorithm>

#include "kernels/matmul.h"

namespace skippipe::bench {
namespace {

constexpr int kRuns = 11;

double median_seconds(BenchDevice& device, const std::function<void()>& run) {
  run();
  std::vector<double> seconds;
  for (int i = 0; i < kRuns; ++i) seconds.push_back(device.seconds(run));
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

// a = b + s c over arrays that no cache holds; plain stores, counted as 3 streams.
double triad_bytes_per_s(BenchDevice& device) {
  const int64_t count = 32 << 20;
  std::vector<float> a(count), b(count, 1.0f), c(count, 2.0f);
  [[maybe_unused]] const int threads = device.context().threads;
  const auto triad = [to = a.data(), left = b.data(), right = c.data(), threads] {
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; ++i) to[i] = left[i] + 3.0f * right[i];
  };
  return 3.0 * static_cast<double>(count) * sizeof(float) / median_seconds(device, triad);
}

double copy_bytes_per_s(BenchDevice& device) {
  const int64_t bytes = 512 << 20;
  const auto from = device.memory().allocate(bytes), to = device.memory().allocate(bytes);
  return 2.0 * static_cast<double>(bytes) / median_seconds(device, [&] { device.copy(to.get(), from.get(), bytes); });
}

double product_flops_per_s(BenchDevice& device, Dtype dtype, int64_t size) {
  Tensors tensors(device, dtype);
  const Tensor x = tensors.input({size, size}), w = tensors.input({size, size}), y = tensors.output({size, size});
  Context ctx = device.context();
  const auto cube = static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size);
  return 2.0 * cube / median_seconds(device, [&] { linear_forward(ctx, y, x, w); });
}

}  // namespace

Ceilings measure_ceilings(BenchDevice& device) {
  const bool gpu = device.backend().device() == Device::kCuda;
  Ceilings ceilings{gpu ? copy_bytes_per_s(device) : triad_bytes_per_s(device), {}};
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16})
    if (device.backend().computes_in(dtype))
      ceilings.flops_per_s[dtype] = product_flops_per_s(device, dtype, gpu ? 8192 : 2048);
  return ceilings;
}

}  // namespace skippipe::bench
