#include "tools/bench_kernels/shapes.h"

#include <algorithm>

namespace skippipe::bench {
namespace {

constexpr Model kModels[] = {
    // Name, T, C, H, K, D, F, V.
    {"125M", 1024, 768, 12, 12, 64, 2048, 32000, false},      // 12 layers
    {"500M", 1024, 1280, 20, 20, 64, 3456, 32000, false},     // 20 layers
    {"1.5B", 1024, 2048, 16, 8, 128, 7168, 32000, false},     // 24 layers
    {"8B", 1024, 4096, 32, 8, 128, 14336, 128256, false},     // 32 layers: Llama 3 8B
    {"8B-4k", 4096, 4096, 32, 8, 128, 14336, 128256, true}};  // its sequences four times as long

constexpr int64_t kGpuTensorBytes = 100'000'000;
constexpr int64_t kCpuRows = 2048;
constexpr int64_t kCpuFlat = 8 << 20;

}  // namespace

std::span<const Model> all_models() { return kModels; }

Shape timed_shape(const Model& model, Device device) {
  Shape shape{1,
              model.tokens,
              model.channels,
              model.heads,
              model.kv_heads,
              model.head_dim,
              model.feed_forward,
              model.vocabulary,
              kCpuFlat};
  if (device == Device::kCpu) {
    shape.batch = std::max<int64_t>(kCpuRows / model.tokens, 1);
  } else {
    const int64_t sequence_bytes = model.tokens * model.channels * dtype_bytes(Dtype::kBf16);
    shape.batch = (kGpuTensorBytes + sequence_bytes - 1) / sequence_bytes;
    shape.flat = shape.rows() * model.channels;
  }
  return shape;
}

Shape verified_shape(const Model& model) {
  const int64_t kv_heads = 2;
  return {2, 72, 328, kv_heads * (model.heads / model.kv_heads), kv_heads, model.head_dim, 360, 600, 5000};
}

}  // namespace skippipe::bench
