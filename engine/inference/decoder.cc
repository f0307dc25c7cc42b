#include "engine/inference/decoder.h"

#include <algorithm>

#include "base/error.h"
#include "engine/model/layer.h"
#include "engine/model/parameters.h"
#include "engine/model/rope_table.h"
#include "kernels/attention_cached.h"
#include "kernels/copy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/rmsnorm.h"

namespace skippipe {
namespace {

constexpr const char* kCacheBlock = "keys and values";
constexpr const char* kChunkBlock = "chunk of tokens";
constexpr const char* kDecoderBlock = "decoder";

StageSpec stage_spec(const DecoderSpec& spec, const StageLayout& layout, int64_t tokens) {
  StageSpec stage;
  stage.config = spec.config;
  stage.layout = layout;
  stage.batch = {1, tokens};
  stage.purpose = StagePurpose::kEvaluation;
  return stage;
}

// What is computed of `tokens` tokens read at once; all layers use the same memory.
struct Chunk {
  Chunk(Arena& arena, const DecoderSpec& spec, int64_t tokens)
      : activations(arena, stage_spec(spec, spec.stages.front(), tokens), {}),
        scratch(arena, stage_spec(spec, spec.stages.front(), tokens)) {
    stream = arena.take({tokens, spec.config.channels}, Dtype::kF32);
    ids = arena.take({tokens}, Dtype::kI32);
    activations.input = stream;
  }

  LayerActivations activations;
  LayerScratch scratch;
  Tensor stream;  // (tokens,C)
  Tensor ids;     // (tokens)
};

// What stays from call to call.
struct Constants {
  Constants(Arena& arena, const DecoderSpec& spec, const Context& context) {
    const ModelConfig& config = spec.config;
    cos = arena.take({spec.positions, config.head_dim / 2}, Dtype::kF32);
    sin = arena.take({spec.positions, config.head_dim / 2}, Dtype::kF32);
    normed = arena.take({1, config.channels}, Dtype::kF32);
    rrms = arena.take({1}, Dtype::kF32);
    logits = arena.take({1, config.vocabulary}, Dtype::kF32);
    const int64_t kernel_bytes =
        attention_cached_workspace_bytes(context, spec.chunk, config.heads, config.kv_heads, config.head_dim);
    kernels = arena.take({aligned_bytes(kernel_bytes) / dtype_bytes(Dtype::kF32)}, Dtype::kF32);
  }

  Tensor cos, sin;      // (positions,D/2)
  Tensor normed, rrms;  // (1,C), (1): the last token, for the head
  Tensor logits;        // (1,V)
  Tensor kernels;       // the context's workspace
};

// A tensor (positions, 2K, D) per layer: the keys' heads, then the values', as they lie behind the queries in qkv.
std::vector<Tensor> take_caches(Arena& arena, const DecoderSpec& spec) {
  std::vector<Tensor> caches;
  for (const StageLayout& stage : spec.stages)
    for (int i = 0; i < stage.layer_count; ++i)
      caches.push_back(arena.take({spec.positions, 2 * spec.config.kv_heads, spec.config.head_dim}, Dtype::kF32));
  return caches;
}

// (2K,D), contiguous, of one token.
Tensor row_of(const Tensor& heads, int64_t token) {
  return {heads.as<float>() + token * heads.stride(0), {heads.dim(1), heads.dim(2)}, heads.dtype(), heads.device()};
}

void check_spec(const DecoderSpec& spec) {
  SKP_CHECK(!spec.stages.empty() && spec.stages.front().index == 0, "a path begins at stage 0");
  if (spec.positions < 1 || spec.positions > spec.config.max_positions)
    throw ConfigError("a sequence of {} tokens, expected 1 to the model's max_position_embeddings, which is {}",
                      spec.positions, spec.config.max_positions);
  if (spec.chunk < 1 || spec.chunk > spec.positions)
    throw ConfigError("chunks of {} tokens, expected 1 to {}", spec.chunk, spec.positions);
}

}  // namespace

class Decoder::Impl {
 public:
  Impl(const DecoderSpec& spec, Slab& slab, const Context& context);

  std::span<const float> read(std::span<const int32_t> tokens);

  DecoderSpec spec_;
  Context ctx_;
  std::vector<Parameters> stages_;
  int64_t length_ = 0;  // tokens read

 private:
  struct Layer {
    LayerWeights weights;
    Tensor cache;
  };

  void read_chunk(std::span<const int32_t> tokens);
  void run_layer(const Layer& layer, Chunk& chunk, int64_t count);
  float eps() const { return static_cast<float>(spec_.config.rms_norm_eps); }

  std::vector<Layer> layers_;
  MemoryBlock chunk_block_;
  std::unique_ptr<Constants> constants_;
  std::vector<float> logits_;  // on the host
};

Decoder::Impl::Impl(const DecoderSpec& spec, Slab& slab, const Context& context)
    : spec_(spec), ctx_(context), chunk_block_(slab.take(Region::kActivations, kChunkBlock)) {
  Arena caches(slab.take(Region::kActivations, kCacheBlock)), decoder(slab.take(Region::kWorkspace, kDecoderBlock));
  const std::vector<Tensor> layer_caches = take_caches(caches, spec);
  auto cache = layer_caches.begin();
  for (const StageLayout& layout : spec.stages) {
    const Parameters& stage = stages_.emplace_back(stage_spec(spec, layout, spec.chunk), slab);
    for (int i = 0; i < layout.layer_count; ++i) layers_.push_back({stage.layer(i), *cache++});
  }
  constants_ = std::make_unique<Constants>(decoder, spec, context);
  const Tensor& kernels = constants_->kernels;
  ctx_.workspace = {kernels.as<std::byte>(), static_cast<size_t>(kernels.bytes())};
  fill_rope_table(ctx_, constants_->cos, constants_->sin, spec.config);
  logits_.resize(static_cast<size_t>(spec.config.vocabulary));
}

void Decoder::Impl::run_layer(const Layer& layer, Chunk& chunk, int64_t count) {
  const ModelConfig& config = spec_.config;
  LayerActivations& activations = chunk.activations;
  rmsnorm_forward(ctx_, chunk.scratch.normed, activations.input_rrms, chunk.stream, layer.weights.input_norm.value,
                  eps());
  layer_before_attention(ctx_, activations, chunk.scratch, layer.weights, config, {1, count});

  const Tensor heads = activations.qkv.reshape({count, config.heads + 2 * config.kv_heads, config.head_dim});
  const Tensor fresh = heads.slice(1, config.heads, 2 * config.kv_heads), kept = layer.cache.slice(0, length_, count);
  for (int64_t t = 0; t < count; ++t) copy(ctx_, row_of(kept, t), row_of(fresh, t));
  const Tensor seen = layer.cache.slice(0, 0, length_ + count);
  attention_cached_forward(ctx_, activations.attention.reshape({count, config.heads, config.head_dim}),
                           heads.slice(1, 0, config.heads), seen.slice(1, 0, config.kv_heads),
                           seen.slice(1, config.kv_heads, config.kv_heads), attention_scale(config));

  layer_after_attention(ctx_, activations, chunk.scratch, layer.weights, config);
  add(ctx_, chunk.stream, chunk.scratch.branch, activations.middle);
}

void Decoder::Impl::read_chunk(std::span<const int32_t> tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  Arena arena(chunk_block_);
  Chunk chunk(arena, spec_, count);
  chunk.scratch.cos = constants_->cos.slice(0, length_, count);
  chunk.scratch.sin = constants_->sin.slice(0, length_, count);
  copy(ctx_, chunk.ids, host_tensor(tokens));
  const EdgeWeights& edge = stages_.front().edge();
  embedding_forward(ctx_, chunk.stream, chunk.ids, edge.embedding.value);
  for (const Layer& layer : layers_) run_layer(layer, chunk, count);
  length_ += count;
  rmsnorm_forward(ctx_, constants_->normed, constants_->rrms, chunk.stream.slice(0, count - 1, 1),
                  edge.final_norm.value, eps());
}

std::span<const float> Decoder::Impl::read(std::span<const int32_t> tokens) {
  SKP_CHECK(!tokens.empty(), "no tokens to read");
  if (static_cast<int64_t>(tokens.size()) > spec_.positions - length_)
    throw ConfigError("{} tokens behind {} others, expected at most {} in all", tokens.size(), length_,
                      spec_.positions);
  for (const int32_t token : tokens)
    if (token < 0 || token >= spec_.config.vocabulary)
      throw ConfigError("found token {}, expected 0 to {}", token, spec_.config.vocabulary - 1);
  for (size_t begin = 0; begin < tokens.size(); begin += static_cast<size_t>(spec_.chunk))
    read_chunk(tokens.subspan(begin, std::min(tokens.size() - begin, static_cast<size_t>(spec_.chunk))));
  linear_forward(ctx_, constants_->logits, constants_->normed, stages_.front().edge().head.value);
  copy(ctx_, host_tensor(std::span(logits_)), constants_->logits);
  finish(ctx_);  // also lets go of the tokens
  return logits_;
}

void Decoder::plan_memory(MemoryPlan& plan, const DecoderSpec& spec, const Context& context) {
  check_spec(spec);
  for (const StageLayout& layout : spec.stages) Parameters::plan_memory(plan, stage_spec(spec, layout, spec.chunk));
  Arena chunk, caches, decoder;
  Chunk(chunk, spec, spec.chunk);
  Constants(decoder, spec, context);
  const size_t layers = take_caches(caches, spec).size();
  plan.add(Region::kActivations, kCacheBlock, caches.used_bytes(),
           fmt::format("of {} positions in {} layers", spec.positions, layers));
  plan.add(Region::kActivations, kChunkBlock, chunk.used_bytes(), fmt::format("{} at once", spec.chunk));
  plan.add(Region::kWorkspace, kDecoderBlock, decoder.used_bytes(), "rotary tables, logits, scratch of a kernel");
}

Decoder::Decoder(const DecoderSpec& spec, Slab& slab, const Context& context) {
  check_spec(spec);
  impl_ = std::make_unique<Impl>(spec, slab, context);
}

Decoder::~Decoder() = default;

const DecoderSpec& Decoder::spec() const { return impl_->spec_; }

Context& Decoder::context() { return impl_->ctx_; }

std::vector<Parameter> Decoder::parameters() const {
  std::vector<Parameter> all;
  for (const Parameters& stage : impl_->stages_) all.insert(all.end(), stage.list().begin(), stage.list().end());
  return all;
}

std::span<const float> Decoder::read(std::span<const int32_t> tokens) { return impl_->read(tokens); }
int64_t Decoder::room() const { return impl_->spec_.positions - impl_->length_; }

}  // namespace skippipe
