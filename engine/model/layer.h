// One transformer layer of a stage: what it keeps of a microbatch, forward and backward.
#pragma once

#include "engine/model/memory.h"
#include "engine/model/model_config.h"
#include "engine/model/parameters.h"
#include "engine/model/stage.h"
#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// What a layer's backward needs of its forward, N = B*T rows. Besides `input`, which belongs to the stage, that is
// N (E (C + (H+2K)D + HD + 2F) + 4 (H + 2)) bytes for a dtype of E bytes. The outputs of norms and SwiGLU are cheaper
// to compute again than to keep.
struct LayerActivations {
  LayerActivations() = default;
  // Takes what spec.recompute has each layer keep; the rest is `recomputed`.
  LayerActivations(Arena& arena, const StageSpec& spec, const LayerActivations& recomputed);
  // Only the rest, which all layers share: backward computes it again just before it needs it. Empty tensors where
  // layers keep their own.
  static LayerActivations recomputed(Arena& arena, const StageSpec& spec);

  Tensor input;  // (N,C), the residual stream
  // Kept unless attention is recomputed.
  Tensor qkv;        // (N,(H+2K)D), queries and keys rotated
  Tensor attention;  // (N,HD)
  Tensor lse;        // (B,H,T)
  // Kept unless blocks are recomputed.
  Tensor input_rrms;   // (N)
  Tensor middle;       // (N,C), the residual stream after attention
  Tensor middle_rrms;  // (N)
  Tensor gate_up;      // (N,2F)

 private:
  void take_attention(Arena& arena, const StageSpec& spec);
  void take_others(Arena& arena, const StageSpec& spec);
};

// What lives within a task only. Tensors under one comment share memory.
struct LayerScratch {
  LayerScratch(Arena& arena, const StageSpec& spec);

  Tensor normed;  // (N,C), output of the norm that comes next
  // What a branch adds to the residual stream, or its gradient.
  Tensor branch;              // (N,C)
  Tensor attention_gradient;  // (N,HD)
  // The widest things.
  Tensor activated;     // (N,F), output of SwiGLU or its gradient
  Tensor qkv_gradient;  // (N,(H+2K)D)

  Tensor cos, sin;  // (T,D/2), the rotary table of the tokens' positions; belong to the stage
};

// Reads scratch.normed (the input's norm) and activations.input; leaves in scratch.branch what the MLP adds to
// activations.middle.
void layer_forward(Context& ctx, LayerActivations& activations, LayerScratch& scratch, const LayerWeights& weights,
                   const ModelConfig& config, const BatchShape& batch);

// The two parts of layer_forward around attention, for a decoder, which attends to more than this batch. The first
// leaves rotated queries and keys, and values, in activations.qkv; the second goes on from activations.attention.
void layer_before_attention(Context& ctx, LayerActivations& activations, LayerScratch& scratch,
                            const LayerWeights& weights, const ModelConfig& config, const BatchShape& batch);
void layer_after_attention(Context& ctx, LayerActivations& activations, LayerScratch& scratch,
                           const LayerWeights& weights, const ModelConfig& config);
float attention_scale(const ModelConfig& config);

// dy (N,C) is the gradient of the layer's output; writes that of its input to dx (N,C), which may be dy. Adds to the
// weights' gradients. Overwrites activations.gate_up, and first computes what spec.recompute has layers not keep.
void layer_backward(Context& ctx, Tensor dx, ConstTensor dy, LayerActivations& activations, LayerScratch& scratch,
                    const LayerWeights& weights, const StageSpec& spec);

}  // namespace skippipe
