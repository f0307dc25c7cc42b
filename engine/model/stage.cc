#include "engine/model/stage.h"

#include <algorithm>

#include "base/error.h"
#include "engine/model/layer.h"
#include "engine/model/parameters.h"
#include "engine/model/rope_table.h"
#include "engine/model/task_graphs.h"
#include "kernels/attention.h"
#include "kernels/backend.h"
#include "kernels/copy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/lm_head.h"
#include "kernels/rmsnorm.h"

namespace skippipe {
namespace {

// The memory for one microbatch.
struct Slot {
  Slot(Arena& arena, const StageSpec& spec, const LayerActivations& recomputed) {
    const int64_t rows = spec.batch.samples * spec.batch.tokens;
    const Dims hidden = {rows, spec.config.channels};
    const bool training = spec.purpose == StagePurpose::kTraining, first_stage = spec.layout.index == 0;
    stream.push_back(arena.take(hidden, spec.dtype));
    for (int i = 0; i < spec.layout.layer_count; ++i) {
      // In evaluation all layers use the memory of the first, and all outputs one buffer: a layer's input is dead
      // before its output is written.
      const bool own_memory = training || i == 0;
      layers.push_back(own_memory ? LayerActivations(arena, spec, recomputed) : layers.back());
      layers.back().input = stream.back();
      stream.push_back(own_memory ? arena.take(hidden, spec.dtype) : stream.back());
    }
    if (first_stage) {
      tokens = arena.take({rows}, Dtype::kI32);
      targets = arena.take({rows}, Dtype::kI32);
    }
    if (training) output_gradient = arena.take(hidden, spec.dtype);
    if (training && first_stage) {
      returned = arena.take(hidden, spec.dtype);
      loss_gradient = arena.take(hidden, spec.dtype);
    }
  }

  std::vector<Tensor> stream;  // (N,C): the input of each layer, and the stage's output
  std::vector<LayerActivations> layers;
  // Not shared with others, though their lives do not overlap without failures: a neighbour that redoes a lost visit
  // asks for what was sent to it once more.
  Tensor output_gradient;
  Tensor tokens, targets, returned, loss_gradient;
};

// What lives within a task only, shared by all slots.
struct Workspace {
  Workspace(Arena& arena, const StageSpec& spec, const Context& context) : layer(arena, spec) {
    if (spec.layout.layer_count > 0) recomputed = LayerActivations::recomputed(arena, spec);
    const ModelConfig& config = spec.config;
    const BatchShape& batch = spec.batch;
    const int64_t rows = batch.samples * batch.tokens;
    int64_t kernel_bytes =
        std::max({attention_workspace_bytes(context, batch.samples, batch.tokens, config.heads, config.kv_heads,
                                            config.head_dim),
                  rmsnorm_backward_workspace_bytes(context, config.channels), squared_norm_workspace_bytes(context)});
    layer.cos = arena.take({batch.tokens, config.head_dim / 2}, Dtype::kF32);
    layer.sin = arena.take({batch.tokens, config.head_dim / 2}, Dtype::kF32);
    scalar = arena.take({1}, Dtype::kF32);
    if (spec.layout.index == 0) {
      stream_gradient = arena.take({rows, config.channels}, spec.dtype);
      final_rrms = arena.take({rows}, Dtype::kF32);
      logits_lse = arena.take({rows}, Dtype::kF32);
      kernel_bytes = std::max(kernel_bytes,
                              lm_head_workspace_bytes(context, rows, config.channels, config.vocabulary, spec.dtype));
    }
    kernels = arena.take({aligned_bytes(kernel_bytes) / dtype_bytes(Dtype::kF32)}, Dtype::kF32);
  }

  LayerScratch layer;
  LayerActivations recomputed;  // what slots do not keep
  Tensor scalar;                // (1), results on their way to the host
  Tensor stream_gradient;       // (N,C), stage 0: the gradient on its way down to the embedding
  Tensor final_rrms;            // (N)
  Tensor logits_lse;            // (N)
  Tensor kernels;               // the context's workspace
};

void check_spec(const StageSpec& spec) {
  const auto& [config, layout, batch, slots, purpose, dtype, recompute] = spec;
  if (layout.index < 0 || layout.first_layer < 0 || layout.layer_count < (layout.index == 0 ? 0 : 1) ||
      layout.layer_count > config.layers - layout.first_layer)
    throw ConfigError("stage {} holds {} layers from layer {} on, expected layers of a model of {}", layout.index,
                      layout.layer_count, layout.first_layer, config.layers);
  constexpr int64_t kMaxRows = int64_t{1} << 31;
  if (batch.samples < 1 || batch.tokens < 1 || batch.samples > kMaxRows / batch.tokens)
    throw ConfigError("a microbatch of {} samples of {} tokens, expected at least 1 of each and at most {} tokens",
                      batch.samples, batch.tokens, kMaxRows);
  if (batch.tokens > config.max_positions)
    throw ConfigError("samples of {} tokens, expected at most the model's max_position_embeddings, which is {}",
                      batch.tokens, config.max_positions);
  if (slots < 1) throw ConfigError("{} slots, expected at least 1", slots);
  SKP_CHECK(purpose == StagePurpose::kTraining || recompute == Recompute::kNone,
            "a backward's recomputation without one");
}

// For the memory table: what recomputation costs.
std::string recompute_note(const StageSpec& spec) {
  if (spec.recompute == Recompute::kNone || spec.layout.layer_count == 0) return "";
  return fmt::format("; recompute {}: +{:.0f} % of a forward in backward", recompute_name(spec.recompute),
                     100 * recomputed_share(spec.recompute, spec.config, spec.batch.tokens));
}

}  // namespace

std::vector<StageLayout> stage_layouts(const ModelConfig& config, std::span<const int> layers_per_stage) {
  std::vector<StageLayout> layouts;
  int64_t layers = 0;
  for (const int count : layers_per_stage) {
    const int index = static_cast<int>(layouts.size());
    if (count < (index == 0 ? 0 : 1) || count > config.layers - layers)
      throw ConfigError("stage {} is to hold {} layers, but {} of the model's {} are left", index, count,
                        config.layers - layers, config.layers);
    layouts.push_back({index, static_cast<int>(layers), count});
    layers += count;
  }
  if (layers != config.layers)
    throw ConfigError("the stages hold {} layers, expected all of the model's {}", layers, config.layers);
  return layouts;
}

std::vector<int> even_layers_per_stage(const ModelConfig& config, int stages) {
  if (stages < 1 || stages > config.layers)
    throw ConfigError("{} stages, expected 1 to {}, one layer each", stages, config.layers);
  std::vector<int> counts;
  for (int64_t s = 0; s < stages; ++s)
    counts.push_back(static_cast<int>((s + 1) * config.layers / stages - s * config.layers / stages));
  return counts;
}

// Tasks that are recorded.
enum Task : int { kForwardTask, kBackwardTask };

class Stage::Impl {
 public:
  Impl(const StageSpec& spec, Slab& slab, const Context& context);

  Slot& slot(int index) {
    SKP_CHECK(index >= 0 && index < static_cast<int>(slots_.size()), "slot {} of {}", index, slots_.size());
    return slots_[static_cast<size_t>(index)];
  }
  Tensor hidden_view(const Tensor& rows) const {
    return rows.empty() ? rows : rows.reshape({spec_.batch.samples, spec_.batch.tokens, spec_.config.channels});
  }

  // Before every task that evaluation does not have.
  void require_training(const char* task) const {
    SKP_CHECK(spec_.purpose == StagePurpose::kTraining, "{} of a stage for evaluation", task);
  }

  void require_first() const {
    SKP_CHECK(spec_.layout.index == 0, "stage {} has neither data nor LM head", spec_.layout.index);
  }

  void forward(int slot_index);
  void queue_forward(Slot& slot);
  LossSum loss(int slot_index, ConstTensor hidden);
  void backward(int slot_index, ConstTensor dy, Tensor dx);
  void queue_backward(Slot& slot, ConstTensor dy, Tensor dx);
  LossSum loss_forward(int slot_index, ConstTensor hidden);
  void set_batch(int slot_index, std::span<const int32_t> tokens, std::span<const int32_t> targets);
  double squared_gradient_norm();

  const StageSpec spec_;
  Context ctx_;
  Parameters parameters_;
  std::vector<Slot> slots_;
  std::vector<int64_t> target_counts_;  // by slot: targets that are not -1
  std::unique_ptr<Workspace> workspace_;
  TaskGraphs graphs_;

 private:
  double read_scalar();  // waits for it
  Dims hidden_rows() const { return {spec_.batch.samples * spec_.batch.tokens, spec_.config.channels}; }
};

Stage::Impl::Impl(const StageSpec& spec, Slab& slab, const Context& context)
    : spec_(spec), ctx_(context), parameters_(spec, slab) {
  Arena scratch(slab.take(Region::kWorkspace, "stage"));
  workspace_ = std::make_unique<Workspace>(scratch, spec, context);
  Arena activations(slab.take(Region::kActivations, "slots"));
  for (int i = 0; i < spec.slots; ++i) slots_.emplace_back(activations, spec, workspace_->recomputed);
  target_counts_.resize(static_cast<size_t>(spec.slots));
  const Tensor& kernels = workspace_->kernels;
  ctx_.workspace = {kernels.as<std::byte>(), static_cast<size_t>(kernels.bytes())};
  fill_rope_table(ctx_, workspace_->layer.cos, workspace_->layer.sin, spec_.config);
}

void Stage::Impl::forward(int slot_index) {
  Slot& slot = this->slot(slot_index);
  graphs_.run(ctx_, {kForwardTask, slot_index, nullptr, nullptr}, [&] { queue_forward(slot); });
}

void Stage::Impl::queue_forward(Slot& slot) {
  LayerScratch& scratch = workspace_->layer;
  const float eps = static_cast<float>(spec_.config.rms_norm_eps);
  if (spec_.layout.index == 0) embedding_forward(ctx_, slot.stream[0], slot.tokens, parameters_.edge().embedding.value);
  if (slot.layers.empty()) return;

  rmsnorm_forward(ctx_, scratch.normed, slot.layers[0].input_rrms, slot.stream[0],
                  parameters_.layer(0).input_norm.value, eps);
  for (int i = 0; i < spec_.layout.layer_count; ++i) {
    LayerActivations& layer = slot.layers[static_cast<size_t>(i)];
    const Tensor output = slot.stream[static_cast<size_t>(i) + 1];
    layer_forward(ctx_, layer, scratch, parameters_.layer(i), spec_.config, spec_.batch);
    if (i + 1 == spec_.layout.layer_count)
      add(ctx_, output, scratch.branch, layer.middle);
    else
      add_rmsnorm_forward(ctx_, scratch.normed, output, slot.layers[static_cast<size_t>(i) + 1].input_rrms,
                          scratch.branch, layer.middle, parameters_.layer(i + 1).input_norm.value, eps);
  }
}

void Stage::Impl::backward(int slot_index, ConstTensor dy, Tensor dx) {
  require_training("backward");
  Slot& slot = this->slot(slot_index);
  SKP_CHECK(dx.empty() == (spec_.layout.index == 0), "backward of stage {}: dx is {}", spec_.layout.index,
            dx.empty() ? "missing" : "not wanted, tokens have no gradient");
  graphs_.run(ctx_, {kBackwardTask, slot_index, dy.data(), dx.data()}, [&] { queue_backward(slot, dy, dx); });
}

void Stage::Impl::queue_backward(Slot& slot, ConstTensor dy, Tensor dx) {
  const Tensor stream = dx.empty() ? workspace_->stream_gradient : dx.reshape(hidden_rows());
  ConstTensor upstream = dy.reshape(hidden_rows());
  for (int i = spec_.layout.layer_count - 1; i >= 0; --i) {
    layer_backward(ctx_, stream, upstream, slot.layers[static_cast<size_t>(i)], workspace_->layer, parameters_.layer(i),
                   spec_);
    upstream = stream;
  }
  if (spec_.layout.index == 0) embedding_backward(ctx_, parameters_.edge().embedding.gradient, upstream, slot.tokens);
}

// Leaves the final norm's output in scratch.normed, its rrms and the logits' lse in the workspace.
LossSum Stage::Impl::loss_forward(int slot_index, ConstTensor hidden) {
  require_first();
  const Slot& slot = this->slot(slot_index);
  const EdgeWeights& edge = parameters_.edge();
  const Tensor normed = workspace_->layer.normed;
  rmsnorm_forward(ctx_, normed, workspace_->final_rrms, hidden, edge.final_norm.value,
                  static_cast<float>(spec_.config.rms_norm_eps));
  lm_head_loss_forward(ctx_, workspace_->scalar, workspace_->logits_lse, normed, edge.head.value, slot.targets);
  return {read_scalar(), target_counts_[static_cast<size_t>(slot_index)]};
}

LossSum Stage::Impl::loss(int slot_index, ConstTensor hidden) {
  require_training("loss");
  Slot& slot = this->slot(slot_index);
  const ConstTensor rows = hidden.reshape(hidden_rows());
  const LossSum result = loss_forward(slot_index, rows);
  const EdgeWeights& edge = parameters_.edge();
  const Tensor normed = workspace_->layer.normed, normed_gradient = workspace_->layer.branch;
  const float scale = result.tokens == 0 ? 0.0f : 1.0f / static_cast<float>(result.tokens);
  lm_head_loss_backward(ctx_, normed_gradient, edge.head.gradient, normed, edge.head.value, slot.targets,
                        workspace_->logits_lse, scale);
  rmsnorm_backward(ctx_, slot.loss_gradient, edge.final_norm.gradient, normed_gradient, rows, edge.final_norm.value,
                   workspace_->final_rrms, {});
  return result;
}

double Stage::Impl::squared_gradient_norm() {
  require_training("gradient norm");
  squared_norm(ctx_, workspace_->scalar, parameters_.gradients());
  return read_scalar();
}

double Stage::Impl::read_scalar() {
  float value = 0;
  copy(ctx_, host_tensor(std::span(&value, 1)), workspace_->scalar);
  finish(ctx_);
  return value;
}

void Stage::Impl::set_batch(int slot_index, std::span<const int32_t> tokens, std::span<const int32_t> targets) {
  require_first();
  const Slot& slot = this->slot(slot_index);
  copy(ctx_, slot.tokens, host_tensor(tokens));
  copy(ctx_, slot.targets, host_tensor(targets));
  finish(ctx_);
  target_counts_[static_cast<size_t>(slot_index)] = std::ranges::count_if(targets, [](int32_t t) { return t >= 0; });
}

void Stage::plan_memory(MemoryPlan& plan, const StageSpec& spec, const Context& context) {
  check_spec(spec);
  if (!context.backend->computes_in(spec.dtype))
    throw ConfigError("this machine's {} backend does not compute in {}, expected f32", context.backend->name(),
                      dtype_name(spec.dtype));
  plan_memory_elsewhere(plan, spec, context);
}

void Stage::plan_memory_elsewhere(MemoryPlan& plan, const StageSpec& spec, const Context& context) {
  check_spec(spec);
  Parameters::plan_memory(plan, spec);
  Arena slot, scratch;
  const Workspace workspace(scratch, spec, context);
  Slot(slot, spec, workspace.recomputed);
  int64_t slots_bytes = 0;
  if (__builtin_mul_overflow(slot.used_bytes(), spec.slots, &slots_bytes))
    throw MemoryError("{} slots of {} bytes need more than 2^63 bytes", spec.slots, slot.used_bytes());
  plan.add(Region::kActivations, "slots", slots_bytes,
           fmt::format("{} of {}, each for {} x {} tokens{}", spec.slots, human_bytes(slot.used_bytes()),
                       spec.batch.samples, spec.batch.tokens, recompute_note(spec)));
  plan.add(Region::kWorkspace, "stage", scratch.used_bytes(),
           fmt::format("scratch of a task, rotary tables{}",
                       recompute_note(spec).empty() ? "" : ", what is recomputed of a layer"));
}

Stage::Stage(const StageSpec& spec, Slab& slab, const Context& context) {
  check_spec(spec);
  impl_ = std::make_unique<Impl>(spec, slab, context);
}

Stage::~Stage() = default;

const StageSpec& Stage::spec() const { return impl_->spec_; }

void Stage::initialize(uint64_t seed) {
  impl_->parameters_.initialize(impl_->ctx_, seed, impl_->spec_.config.initializer_range);
}

void Stage::set_batch(int slot, std::span<const int32_t> tokens, std::span<const int32_t> targets) {
  impl_->set_batch(slot, tokens, targets);
}

void Stage::use_graphs(bool on) { impl_->graphs_.turn(on); }
int64_t Stage::graphs() const { return impl_->graphs_.recorded(); }

Context& Stage::context() { return impl_->ctx_; }

void Stage::refresh_weights() { impl_->parameters_.refresh(impl_->ctx_); }

void Stage::forward(int slot) { impl_->forward(slot); }
LossSum Stage::loss(int slot, ConstTensor hidden) { return impl_->loss(slot, hidden); }
void Stage::backward(int slot, ConstTensor dy, Tensor dx) { impl_->backward(slot, dy, dx); }

LossSum Stage::evaluate_loss(int slot, ConstTensor hidden) {
  const BatchShape& shape = batch();
  return impl_->loss_forward(slot, hidden.reshape({shape.samples * shape.tokens, config().channels}));
}

Tensor Stage::input(int slot) const { return impl_->hidden_view(impl_->slot(slot).stream.front()); }
Tensor Stage::output(int slot) const { return impl_->hidden_view(impl_->slot(slot).stream.back()); }
Tensor Stage::returned(int slot) const { return impl_->hidden_view(impl_->slot(slot).returned); }
Tensor Stage::loss_gradient(int slot) const { return impl_->hidden_view(impl_->slot(slot).loss_gradient); }
Tensor Stage::output_gradient(int slot) const { return impl_->hidden_view(impl_->slot(slot).output_gradient); }

Tensor Stage::weights() const { return impl_->parameters_.weights(); }
Tensor Stage::gradients() const { return impl_->parameters_.gradients(); }

void Stage::zero_gradients() {
  impl_->require_training("gradients");
  fill_zero(impl_->ctx_, impl_->parameters_.gradients());
}
double Stage::squared_gradient_norm() { return impl_->squared_gradient_norm(); }
void Stage::step(const AdamWStep& step) {
  impl_->require_training("step");
  impl_->parameters_.step(impl_->ctx_, step);
}
const std::vector<Parameter>& Stage::parameters() const { return impl_->parameters_.list(); }

}  // namespace skippipe
