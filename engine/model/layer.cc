#include "engine/model/layer.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"

namespace skippipe {
namespace {

// Heads [first, first + count) of rows of merged queries, keys and values, as (B,T,count,D).
Tensor heads_of(Tensor qkv, int64_t first, int64_t count, const ModelConfig& config, const BatchShape& batch) {
  const int64_t width = config.qkv_width(), dim = config.head_dim;
  const Tensor all(qkv.data(), {batch.samples, batch.tokens, width / dim, dim}, {batch.tokens * width, width, dim, 1},
                   qkv.dtype(), qkv.device());
  return all.slice(2, first, count);
}

// The columns of one buffer of queries, keys and values (or of their gradients).
struct Heads {
  Heads(Tensor qkv, const ModelConfig& config, const BatchShape& batch)
      : queries(heads_of(qkv, 0, config.heads, config, batch)),
        keys(heads_of(qkv, config.heads, config.kv_heads, config, batch)),
        values(heads_of(qkv, config.heads + config.kv_heads, config.kv_heads, config, batch)),
        rotated(heads_of(qkv, 0, config.heads + config.kv_heads, config, batch)) {}
  Tensor queries, keys, values;
  Tensor rotated;  // queries and keys
};

Tensor per_head(Tensor rows, const ModelConfig& config, const BatchShape& batch) {
  return rows.reshape({batch.samples, batch.tokens, config.heads, config.head_dim});
}

float eps_of(const ModelConfig& config) { return static_cast<float>(config.rms_norm_eps); }

// From scratch.normed, the input's norm, to activations.attention.
void attend(Context& ctx, LayerActivations& activations, LayerScratch& scratch, const LayerWeights& weights,
            const ModelConfig& config, const BatchShape& batch) {
  layer_before_attention(ctx, activations, scratch, weights, config, batch);
  const Heads heads(activations.qkv, config, batch);
  attention_forward(ctx, per_head(activations.attention, config, batch), activations.lse, heads.queries, heads.keys,
                    heads.values, attention_scale(config));
}

// From activations.attention to gate_up.
void widen_middle(Context& ctx, LayerActivations& activations, LayerScratch& scratch, const LayerWeights& weights,
                  const ModelConfig& config) {
  linear_forward(ctx, scratch.branch, activations.attention, weights.attention_output.value);
  add_rmsnorm_forward(ctx, scratch.normed, activations.middle, activations.middle_rrms, scratch.branch,
                      activations.input, weights.middle_norm.value, eps_of(config));
  linear_forward(ctx, activations.gate_up, scratch.normed, weights.gate_up.value);
}

// The input's norm as forward had it, fused or not: both normalize what is stored in the stream.
void normalize_input(Context& ctx, LayerActivations& activations, LayerScratch& scratch, const LayerWeights& weights,
                     const ModelConfig& config) {
  rmsnorm_forward(ctx, scratch.normed, activations.input_rrms, activations.input, weights.input_norm.value,
                  eps_of(config));
}

void mlp_backward(Context& ctx, Tensor dx, ConstTensor dy, LayerActivations& activations, LayerScratch& scratch,
                  const LayerWeights& weights, const ModelConfig& config) {
  const Tensor gate = activations.gate_up.slice(1, 0, config.feed_forward);
  const Tensor up = activations.gate_up.slice(1, config.feed_forward, config.feed_forward);
  const Tensor activated = scratch.activated;
  swiglu_forward(ctx, activated, gate, up);
  linear_backward_weight(ctx, weights.down.gradient, dy, activated);
  linear_backward_input(ctx, activated, dy, weights.down.value);
  swiglu_backward(ctx, gate, up, activated, gate, up);

  rmsnorm_forward(ctx, scratch.normed, activations.middle_rrms, activations.middle, weights.middle_norm.value,
                  eps_of(config));
  linear_backward_weight(ctx, weights.gate_up.gradient, activations.gate_up, scratch.normed);
  linear_backward_input(ctx, scratch.branch, activations.gate_up, weights.gate_up.value);
  rmsnorm_backward(ctx, dx, weights.middle_norm.gradient, scratch.branch, activations.middle, weights.middle_norm.value,
                   activations.middle_rrms, dy);
}

// dx is the gradient of the stream after attention, and becomes that of the stream before it.
void attention_branch_backward(Context& ctx, Tensor dx, LayerActivations& activations, LayerScratch& scratch,
                               const LayerWeights& weights, const StageSpec& spec) {
  const ModelConfig& config = spec.config;
  const BatchShape& batch = spec.batch;
  normalize_input(ctx, activations, scratch, weights, config);
  if (spec.recompute == Recompute::kAttention) attend(ctx, activations, scratch, weights, config, batch);
  linear_backward_weight(ctx, weights.attention_output.gradient, dx, activations.attention);
  linear_backward_input(ctx, scratch.attention_gradient, dx, weights.attention_output.value);
  const Heads saved(activations.qkv, config, batch), gradients(scratch.qkv_gradient, config, batch);
  attention_backward(ctx, gradients.queries, gradients.keys, gradients.values,
                     per_head(scratch.attention_gradient, config, batch), saved.queries, saved.keys, saved.values,
                     per_head(activations.attention, config, batch), activations.lse, attention_scale(config));
  rope_backward(ctx, gradients.rotated, scratch.cos, scratch.sin);

  linear_backward_weight(ctx, weights.qkv.gradient, scratch.qkv_gradient, scratch.normed);
  linear_backward_input(ctx, scratch.branch, scratch.qkv_gradient, weights.qkv.value);
  rmsnorm_backward(ctx, dx, weights.input_norm.gradient, scratch.branch, activations.input, weights.input_norm.value,
                   activations.input_rrms, dx);
}

}  // namespace

LayerActivations::LayerActivations(Arena& arena, const StageSpec& spec, const LayerActivations& recomputed)
    : LayerActivations(recomputed) {
  if (spec.recompute < Recompute::kAttention) take_attention(arena, spec);
  if (spec.recompute < Recompute::kBlock) take_others(arena, spec);
}

LayerActivations LayerActivations::recomputed(Arena& arena, const StageSpec& spec) {
  LayerActivations shared;
  if (spec.recompute >= Recompute::kAttention) shared.take_attention(arena, spec);
  if (spec.recompute >= Recompute::kBlock) shared.take_others(arena, spec);
  return shared;
}

void LayerActivations::take_attention(Arena& arena, const StageSpec& spec) {
  const ModelConfig& config = spec.config;
  const BatchShape& batch = spec.batch;
  const int64_t rows = batch.samples * batch.tokens;
  qkv = arena.take({rows, config.qkv_width()}, spec.dtype);
  attention = arena.take({rows, config.heads * config.head_dim}, spec.dtype);
  lse = arena.take({batch.samples, config.heads, batch.tokens}, Dtype::kF32);
}

void LayerActivations::take_others(Arena& arena, const StageSpec& spec) {
  const ModelConfig& config = spec.config;
  const int64_t rows = spec.batch.samples * spec.batch.tokens;
  input_rrms = arena.take({rows}, Dtype::kF32);
  middle = arena.take({rows, config.channels}, spec.dtype);
  middle_rrms = arena.take({rows}, Dtype::kF32);
  gate_up = arena.take({rows, 2 * config.feed_forward}, spec.dtype);
}

LayerScratch::LayerScratch(Arena& arena, const StageSpec& spec) {
  const ModelConfig& config = spec.config;
  const BatchShape& batch = spec.batch;
  const int64_t rows = batch.samples * batch.tokens;
  const auto take_shared = [&](Tensor& first, int64_t first_width, Tensor& second, int64_t second_width) {
    const Tensor memory = arena.take({rows, std::max(first_width, second_width)}, spec.dtype);
    first = {memory.data(), {rows, first_width}, spec.dtype, memory.device()};
    second = {memory.data(), {rows, second_width}, spec.dtype, memory.device()};
  };
  normed = arena.take({rows, config.channels}, spec.dtype);
  take_shared(branch, config.channels, attention_gradient, config.heads * config.head_dim);
  take_shared(activated, config.feed_forward, qkv_gradient, config.qkv_width());
}

float attention_scale(const ModelConfig& config) { return 1.0f / std::sqrt(static_cast<float>(config.head_dim)); }

void layer_before_attention(Context& ctx, LayerActivations& activations, LayerScratch& scratch,
                            const LayerWeights& weights, const ModelConfig& config, const BatchShape& batch) {
  linear_forward(ctx, activations.qkv, scratch.normed, weights.qkv.value);
  rope_forward(ctx, Heads(activations.qkv, config, batch).rotated, scratch.cos, scratch.sin);
}

void layer_after_attention(Context& ctx, LayerActivations& activations, LayerScratch& scratch,
                           const LayerWeights& weights, const ModelConfig& config) {
  widen_middle(ctx, activations, scratch, weights, config);
  swiglu_forward(ctx, scratch.activated, activations.gate_up.slice(1, 0, config.feed_forward),
                 activations.gate_up.slice(1, config.feed_forward, config.feed_forward));
  linear_forward(ctx, scratch.branch, scratch.activated, weights.down.value);
}

void layer_forward(Context& ctx, LayerActivations& activations, LayerScratch& scratch, const LayerWeights& weights,
                   const ModelConfig& config, const BatchShape& batch) {
  attend(ctx, activations, scratch, weights, config, batch);
  layer_after_attention(ctx, activations, scratch, weights, config);
}

void layer_backward(Context& ctx, Tensor dx, ConstTensor dy, LayerActivations& activations, LayerScratch& scratch,
                    const LayerWeights& weights, const StageSpec& spec) {
  if (spec.recompute == Recompute::kBlock) {
    normalize_input(ctx, activations, scratch, weights, spec.config);
    attend(ctx, activations, scratch, weights, spec.config, spec.batch);
    widen_middle(ctx, activations, scratch, weights, spec.config);
  }
  mlp_backward(ctx, dx, dy, activations, scratch, weights, spec.config);
  attention_branch_backward(ctx, dx, activations, scratch, weights, spec);
}

}  // namespace skippipe
