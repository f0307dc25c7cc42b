// The weights of one stage with their gradients and optimizer moments.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/files/safetensors.h"
#include "engine/model/memory.h"
#include "engine/model/model_config.h"
#include "engine/model/stage.h"
#include "kernels/adamw.h"
#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

struct Weight {
  Tensor value;  // what to compute with, in the stage's dtype
  Tensor gradient;
};

// Query, key and value lie in one matrix, gate and up in another, so that one product serves each; the tensors that
// Hugging Face names are their rows.
struct LayerWeights {
  Weight input_norm;        // (C)
  Weight qkv;               // ((H+2K)D, C)
  Weight attention_output;  // (C, HD)
  Weight middle_norm;       // (C), "post_attention_layernorm"
  Weight gate_up;           // (2F, C)
  Weight down;              // (C, F)
};

// Stage 0 only.
struct EdgeWeights {
  Weight embedding;   // (V, C)
  Weight final_norm;  // (C)
  Weight head;        // (V, C); the embedding itself where they are tied
};

// Names and shapes of a stage's weights in the order of Parameters::list(), F32.
std::vector<SafeTensor> stage_tensors(const ModelConfig& config, const StageLayout& layout);

// Four blocks of one layout, f32: weights, gradients, first and second moments; the first only in evaluation. Where the
// stage's dtype is not f32, a fifth holds the weights rounded to it, which is what tasks compute with. Matrices lie
// first and norms behind them, so that a step over all tensors is two operations, with and without weight decay. Used
// by the stage's thread.
class Parameters {
 public:
  static void plan_memory(MemoryPlan& plan, const StageSpec& spec);
  Parameters(const StageSpec& spec, Slab& slab);

  const LayerWeights& layer(int index) const { return layers_[static_cast<size_t>(index)]; }  // within the stage
  const EdgeWeights& edge() const { return edge_; }
  const std::vector<Parameter>& list() const { return list_; }

  Tensor weights() const { return weights_; }      // (all), f32
  Tensor gradients() const { return gradients_; }  // (all), f32; empty in evaluation

  // The rounded copy, from the weights; nothing where there is none.
  void refresh(Context& ctx);
  // Waits for ctx's stream.
  void initialize(Context& ctx, uint64_t seed, double range);
  void step(Context& ctx, const AdamWStep& step);

 private:
  struct Rounded {
    Tensor copy, weight;
  };

  Tensor weights_;                                     // (all)
  Tensor gradients_, first_moments_, second_moments_;  // (all), empty in evaluation
  int64_t matrix_elements_ = 0;                        // of each; the norms follow
  std::vector<Rounded> rounded_;                       // every stored tensor, unless the dtype is f32
  std::vector<LayerWeights> layers_;
  EdgeWeights edge_;
  std::vector<Parameter> list_;
};

}  // namespace skippipe
