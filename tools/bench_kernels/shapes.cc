#include "tools/bench_kernels/shapes.h"

#include <algorithm>

#include "tools/bench/model_shapes.h"

namespace skippipe::bench {
namespace {

constexpr Model timed(const ModelShape& shape, const char* name, int64_t tokens, bool attention_only) {
  return {name,           tokens,         shape.channels,     shape.heads,
          shape.kv_heads, shape.head_dim, shape.feed_forward, shape.vocabulary,
          attention_only};
}
constexpr Model timed(const ModelShape& shape) { return timed(shape, shape.name, 1024, false); }

constexpr Model kModels[] = {timed(kModelShapes[0]), timed(kModelShapes[1]), timed(kModelShapes[2]),
                             timed(kModelShapes[3]),
                             timed(kModelShapes[3], "8B-4k", 4096, true)};  // its sequences four times as long

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
