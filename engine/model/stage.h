// A stage: the part of the model that one node holds on its device, with the activations of the microbatches in flight.
//
// Hidden states cross the borders of stages as the residual stream, not normalized, (B,T,C) in the stage's dtype. So
// any stage may follow any other, and one that is skipped is simply not called.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/model/memory.h"
#include "engine/model/model_config.h"
#include "engine/model/recompute.h"
#include "kernels/adamw.h"
#include "kernels/context.h"
#include "kernels/tensor.h"

namespace skippipe {

// A microbatch: B samples of T tokens.
struct BatchShape {
  int64_t samples = 0;
  int64_t tokens = 0;
};

// Layers [first_layer, first_layer + layer_count). Stage 0 also holds the embedding, the final norm and the LM head,
// and may have no layer.
struct StageLayout {
  int index = 0;
  int first_layer = 0;
  int layer_count = 0;
};

// A stage for evaluation has weights and one layer's activations per slot, but no gradients and no moments; of the
// tasks it knows forward and evaluate_loss.
enum class StagePurpose : uint8_t { kTraining, kEvaluation };

// What a stage is made from.
struct StageSpec {
  ModelConfig config;
  StageLayout layout;
  BatchShape batch;
  int slots = 1;  // microbatches in flight
  StagePurpose purpose = StagePurpose::kTraining;
  // f32 or bf16: of activations, of their gradients, and of the weights that tasks compute with. Where it is not f32,
  // these are a copy of the weights that are stepped; those, gradients and moments are f32 always.
  Dtype dtype = Dtype::kF32;
  // Changes no bit where kernels are deterministic. A stage for evaluation, which has no backward, recomputes nothing.
  Recompute recompute = Recompute::kNone;
};

// One layout per entry of layers_per_stage. Throws ConfigError unless they add up to the model's layers.
std::vector<StageLayout> stage_layouts(const ModelConfig& config, std::span<const int> layers_per_stage);
// As even as possible, the later stages getting one more. Throws ConfigError unless 1 <= stages <= layers.
std::vector<int> even_layers_per_stage(const ModelConfig& config, int stages);

// A tensor of the model under its Hugging Face name; views of a stage's memory, all of the same shape, contiguous, f32.
struct Parameter {
  std::string name;  // "model.layers.3.self_attn.q_proj.weight"
  Tensor weight;
  Tensor gradient;
  Tensor first_moment;
  Tensor second_moment;
};

// Sum of the loss over the targets that are not -1, in nats, and how many these are.
struct LossSum {
  double sum = 0;
  int64_t tokens = 0;
  double mean() const { return tokens == 0 ? 0 : sum / static_cast<double>(tokens); }
};

// With dtypes of E bytes, a slot takes E B T bytes times 2C + layers x (2C + (H+2K)D + HD + 2F) and 4 B T times layers
// x (H + 2), and on stage 0 another 2C times E B T and 2 times 4 B T: hidden states at the borders, the residual
// streams and what attention and MLP need for backward. Outputs of norms and SwiGLU are computed again.
// StageSpec::recompute leaves of a layer's share: kAttention E B T (2C + 2F) + 4 B T 2, kBlock E B T C. What slots do
// not keep of a layer is in the workspace then, once for all slots and layers. For it backward does a recomputed_share
// of forward again.
//
// Owned by whoever made it, who keeps the slab alive. Tasks (everything that computes) belong to one thread at a time.
// The buffers of a slot have fixed addresses; another thread may read or write those of a slot that no task is using.
class Stage {
 public:
  // Registers what the stage will take from the slab; the context says threads and backend. Throws ConfigError (a
  // layout or batch that does not fit the model, a dtype that the backend does not compute in) and MemoryError (sizes
  // that overflow).
  static void plan_memory(MemoryPlan& plan, const StageSpec& spec, const Context& context);
  // The same for another machine, which computes in that dtype if this one does not.
  static void plan_memory_elsewhere(MemoryPlan& plan, const StageSpec& spec, const Context& context);

  // The slab must be that of a plan made by plan_memory with the same arguments. The context's workspace is ignored:
  // the stage brings its own. Weights, gradients and moments begin as zeros.
  Stage(const StageSpec& spec, Slab& slab, const Context& context);
  ~Stage();
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  const StageSpec& spec() const;
  const ModelConfig& config() const { return spec().config; }
  const StageLayout& layout() const { return spec().layout; }
  const BatchShape& batch() const { return spec().batch; }
  int slots() const { return spec().slots; }
  bool is_first() const { return layout().index == 0; }  // stage 0: embedding, final norm, LM head, data

  // Weights from normal(0, initializer_range), norms 1. Each tensor draws from a stream of its own, keyed by its name,
  // so the weights do not depend on how the model is cut. Gradients and moments are zeroed.
  void initialize(uint64_t seed);

  // Tasks of one visit, in this order. A visit's slot is free again after its backward, which overwrites what forward
  // saved there.
  //
  // Stage 0 reads tokens(slot), the others input(slot); the result is in output(slot), kept until the slot's next
  // forward.
  void forward(int slot);
  // Stage 0 only. hidden (B,T,C), not normalized, is what the path's last stage returned: returned(slot), or
  // output(slot) where the path has no other stage. Returns the mean loss over the targets that are not -1 and writes
  // the gradient of that mean for `hidden` to loss_gradient(slot); adds to the gradients of final norm and LM head.
  // Touches nothing of the slot that backward needs.
  LossSum loss(int slot, ConstTensor hidden);
  // dy (B,T,C) is the gradient of output(slot); adds to the parameters' gradients. Stage 0: dx is empty. Others: dx
  // (B,T,C), the gradient of input(slot); it may be dy.
  void backward(int slot, ConstTensor dy, Tensor dx);

  // Stage 0 only: the loss without any gradient, for evaluation. Any hidden (B,T,C), any slot.
  LossSum evaluate_loss(int slot, ConstTensor hidden);

  // Stage 0 only: the microbatch that the slot's next tasks are of. tokens (B,T) in [0, V), targets (B,T) in [0, V) or
  // -1, in memory of the host, which may be used again at once.
  void set_batch(int slot, std::span<const int32_t> tokens, std::span<const int32_t> targets);

  // Buffers of a slot, on the device. returned and loss_gradient: stage 0 only (empty elsewhere). The last three are
  // for training only.
  Tensor input(int slot) const;          // (B,T,C); stage 0: where forward puts the embedding
  Tensor output(int slot) const;         // (B,T,C)
  Tensor returned(int slot) const;       // (B,T,C), the hidden state that comes back for the loss
  Tensor loss_gradient(int slot) const;  // (B,T,C), of returned
  Tensor output_gradient(
      int slot) const;  // (B,T,C), of output; comes from the next stage. backward's dx may go here too

  // What tasks compute with, from weights(). To be called when these, or parameters()' weights, were written from
  // outside; initialize and step do it themselves.
  void refresh_weights();

  // All the stage's values on the device (all) f32, contiguous; tensors are padded to kBlockAlignment with zeros that
  // stay zero. gradients() is empty in evaluation.
  Tensor weights() const;
  Tensor gradients() const;

  void zero_gradients();
  // Sum of squares of gradients(), for clipping by the global norm.
  double squared_gradient_norm();
  // AdamW over all tensors; weight decay skips the norms.
  void step(const AdamWStep& step);

  // By Hugging Face name, in the order of the layers. With tied embeddings there is no lm_head.weight; in evaluation
  // only the weights are there, the other tensors are empty.
  const std::vector<Parameter>& parameters() const;

  // On a GPU, forward and backward of a slot are recorded as graphs at their second run, and replayed from then on; the
  // results are the same, bit for bit. Default: on.
  void use_graphs(bool on);
  int64_t graphs() const;  // recorded so far

  // What tasks are queued in, for copies from and to the tensors above. Tasks that return something (loss,
  // evaluate_loss, squared_gradient_norm), set_batch and initialize wait for its stream, others need not.
  Context& context();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace skippipe
