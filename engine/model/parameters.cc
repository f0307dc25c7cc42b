#include "engine/model/parameters.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "base/error.h"
#include "base/random.h"
#include "kernels/copy.h"
#include "kernels/elementwise.h"

namespace skippipe {
namespace {

// A tensor as it lies in memory: one or several of Hugging Face's below each other.
struct StoredTensor {
  struct Part {
    std::string name;
    int64_t rows;
  };
  std::vector<Part> parts;
  int64_t columns = 0;  // 0: a norm, one dimension

  bool is_norm() const { return columns == 0; }
  Dims shape() const {
    int64_t rows = 0;
    for (const Part& part : parts) rows += part.rows;
    return is_norm() ? Dims{rows} : Dims{rows, columns};
  }
};

constexpr int kTensorsPerLayer = 6;
constexpr const char* kWeightsBlock = "weights";
constexpr const char* kRoundedBlock = "rounded weights";
constexpr const char* kGradientsBlock = "gradients";
constexpr const char* kFirstMomentsBlock = "first moments";
constexpr const char* kSecondMomentsBlock = "second moments";

// Several stages may share a slab.
std::string block_name(const char* what, const StageLayout& layout) {
  return fmt::format("{} of stage {}", what, layout.index);
}

void append_layer(std::vector<StoredTensor>& tensors, const ModelConfig& config, int layer) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  const int64_t channels = config.channels, feed_forward = config.feed_forward;
  const int64_t query_rows = config.heads * config.head_dim, key_rows = config.kv_heads * config.head_dim;
  tensors.push_back({{{prefix + "input_layernorm.weight", channels}}, 0});
  tensors.push_back({{{attention + "q_proj.weight", query_rows},
                      {attention + "k_proj.weight", key_rows},
                      {attention + "v_proj.weight", key_rows}},
                     channels});
  tensors.push_back({{{attention + "o_proj.weight", channels}}, query_rows});
  tensors.push_back({{{prefix + "post_attention_layernorm.weight", channels}}, 0});
  tensors.push_back({{{mlp + "gate_proj.weight", feed_forward}, {mlp + "up_proj.weight", feed_forward}}, channels});
  tensors.push_back({{{mlp + "down_proj.weight", channels}}, feed_forward});
}

// The layers' tensors in the order of LayerWeights' members; on stage 0 those of EdgeWeights follow.
std::vector<StoredTensor> stored_tensors(const ModelConfig& config, const StageLayout& layout) {
  std::vector<StoredTensor> tensors;
  for (int layer = 0; layer < layout.layer_count; ++layer) append_layer(tensors, config, layout.first_layer + layer);
  if (layout.index != 0) return tensors;
  tensors.push_back({{{"model.embed_tokens.weight", config.vocabulary}}, config.channels});
  tensors.push_back({{{"model.norm.weight", config.channels}}, 0});
  if (!config.tied_embeddings) tensors.push_back({{{"lm_head.weight", config.vocabulary}}, config.channels});
  return tensors;
}

// A view of each tensor, in their order; matrices are placed first. Returns how many elements these take.
int64_t place(Arena& arena, std::vector<Tensor>& views, const std::vector<StoredTensor>& tensors, Dtype dtype) {
  const auto place_kind = [&](bool norms) {
    for (size_t i = 0; i < tensors.size(); ++i)
      if (tensors[i].is_norm() == norms) views[i] = arena.take(tensors[i].shape(), dtype);
    return arena.used_bytes() / dtype_bytes(dtype);
  };
  const int64_t matrix_elements = place_kind(false);
  place_kind(true);
  return matrix_elements;
}

Tensor flat(const MemoryBlock& block) {
  return {block.bytes.data(),
          {static_cast<int64_t>(block.bytes.size()) / dtype_bytes(Dtype::kF32)},
          Dtype::kF32,
          block.device};
}

// Fills a contiguous f32 tensor on the device, piece by piece, in order.
void write_values(Context& ctx, const Tensor& tensor, const std::function<void(std::span<float>)>& fill) {
  constexpr int64_t kPiece = 1 << 18;
  std::vector<float> values(static_cast<size_t>(std::min(kPiece, tensor.elements())));
  const Tensor flat = tensor.reshape({tensor.elements()});
  for (int64_t begin = 0; begin < tensor.elements(); begin += kPiece) {
    const int64_t count = std::min(kPiece, tensor.elements() - begin);
    const std::span<float> piece = std::span(values).first(static_cast<size_t>(count));
    fill(piece);
    copy(ctx, flat.slice(0, begin, count), host_tensor(piece));
    finish(ctx);
  }
}

// 64-bit FNV-1a: tells tensors apart, nothing more.
uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char letter : name) hash = (hash ^ static_cast<uint8_t>(letter)) * 0x100000001b3ull;
  return hash;
}

}  // namespace

std::vector<SafeTensor> stage_tensors(const ModelConfig& config, const StageLayout& layout) {
  std::vector<SafeTensor> result;
  for (const StoredTensor& tensor : stored_tensors(config, layout)) {
    for (const auto& [name, rows] : tensor.parts) {
      const auto shape = tensor.is_norm() ? std::vector<int64_t>{rows} : std::vector<int64_t>{rows, tensor.columns};
      result.push_back({name, SafeDtype::kF32, shape});
    }
  }
  return result;
}

void Parameters::plan_memory(MemoryPlan& plan, const StageSpec& spec) {
  const StageLayout& layout = spec.layout;
  const std::vector<StoredTensor> tensors = stored_tensors(spec.config, layout);
  std::vector<Tensor> views(tensors.size());
  Arena arena;
  place(arena, views, tensors, Dtype::kF32);
  plan.add(Region::kWeights, block_name(kWeightsBlock, layout), arena.used_bytes(),
           fmt::format("f32, {} layers{}", layout.layer_count, layout.index == 0 ? ", embedding, head" : ""));
  if (spec.dtype != Dtype::kF32) {
    Arena rounded;
    place(rounded, views, tensors, spec.dtype);
    plan.add(Region::kWeights, block_name(kRoundedBlock, layout), rounded.used_bytes(),
             fmt::format("{}, refreshed after each step", dtype_name(spec.dtype)));
  }
  if (spec.purpose == StagePurpose::kEvaluation) return;
  plan.add(Region::kGradients, block_name(kGradientsBlock, layout), arena.used_bytes(), "f32");
  plan.add(Region::kOptimizer, block_name(kFirstMomentsBlock, layout), arena.used_bytes(), "AdamW, f32");
  plan.add(Region::kOptimizer, block_name(kSecondMomentsBlock, layout), arena.used_bytes(), "AdamW, f32");
}

Parameters::Parameters(const StageSpec& spec, Slab& slab) {
  const ModelConfig& config = spec.config;
  const StageLayout& layout = spec.layout;
  const std::vector<StoredTensor> tensors = stored_tensors(config, layout);
  using Views = std::vector<Tensor>;
  Views values(tensors.size()), gradients(tensors.size()), first(tensors.size()), second(tensors.size());
  const auto take = [&](Views& views, Region region, const char* name) {
    const MemoryBlock block = slab.take(region, block_name(name, layout));
    Arena arena(block);
    matrix_elements_ = place(arena, views, tensors, Dtype::kF32);
    return flat(block);
  };
  weights_ = take(values, Region::kWeights, kWeightsBlock);
  Views computed = values;
  if (spec.dtype != Dtype::kF32) {
    Arena arena(slab.take(Region::kWeights, block_name(kRoundedBlock, layout)));
    place(arena, computed, tensors, spec.dtype);
    for (size_t i = 0; i < tensors.size(); ++i) rounded_.push_back({computed[i], values[i]});
  }
  if (spec.purpose == StagePurpose::kTraining) {
    gradients_ = take(gradients, Region::kGradients, kGradientsBlock);
    first_moments_ = take(first, Region::kOptimizer, kFirstMomentsBlock);
    second_moments_ = take(second, Region::kOptimizer, kSecondMomentsBlock);
  }

  const auto weight = [&](size_t i) { return Weight{computed[i], gradients[i]}; };
  size_t next = 0;
  for (int layer = 0; layer < layout.layer_count; ++layer, next += kTensorsPerLayer)
    layers_.push_back(
        {weight(next), weight(next + 1), weight(next + 2), weight(next + 3), weight(next + 4), weight(next + 5)});
  if (layout.index == 0) edge_ = {weight(next), weight(next + 1), weight(config.tied_embeddings ? next : next + 2)};

  for (size_t i = 0; i < tensors.size(); ++i) {
    int64_t row = 0;
    for (const auto& [name, rows] : tensors[i].parts) {
      const auto rows_of = [row, count = rows](const Tensor& all) {
        return all.empty() ? all : all.slice(0, row, count);
      };
      list_.push_back({name, rows_of(values[i]), rows_of(gradients[i]), rows_of(first[i]), rows_of(second[i])});
      row += rows;
    }
  }
}

void Parameters::refresh(Context& ctx) {
  for (const auto& [copy, weight] : rounded_) cast(ctx, copy, weight);
}

void Parameters::initialize(Context& ctx, uint64_t seed, double range) {
  for (const Tensor& all : {weights_, gradients_, first_moments_, second_moments_})
    if (!all.empty()) fill_zero(ctx, all);
  for (const Parameter& parameter : list_) {
    Random random(seed, {hash_name(parameter.name)});
    const bool is_norm = parameter.weight.rank() == 1;
    write_values(ctx, parameter.weight, [&](std::span<float> values) {
      std::ranges::generate(values, [&] { return is_norm ? 1.0f : static_cast<float>(range * random.normal()); });
    });
  }
  refresh(ctx);
  finish(ctx);
}

void Parameters::step(Context& ctx, const AdamWStep& step) {
  AdamWStep whole = step;
  whole.decayed = matrix_elements_;
  adamw_step(ctx, weights_, first_moments_, second_moments_, gradients_, whole);
  refresh(ctx);
}

}  // namespace skippipe
