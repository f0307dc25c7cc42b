// A model cut into stages that live in one process, for tests: the oracle that needs no messages.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "engine/memory.h"
#include "engine/stage.h"
#include "kernels/backend.h"
#include "kernels/cpu_backend.h"
#include "kernels/matmul.h"
#include "kernels/rmsnorm.h"

namespace skippipe::test {

// Small, with grouped queries and a head width other than C/H.
inline ModelConfig tiny_config(int64_t layers = 3) {
  ModelConfig config;
  config.channels = 24;
  config.feed_forward = 40;
  config.layers = layers;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.vocabulary = 37;
  config.max_positions = 64;
  config.rms_norm_eps = 1e-5;
  config.initializer_range = 0.2;
  return config;
}

inline std::span<float> values_of(const Tensor& tensor) {
  return {tensor.as<float>(), static_cast<size_t>(tensor.elements())};
}

inline void copy_values(const Tensor& to, const Tensor& from) {
  std::memcpy(to.data(), from.data(), static_cast<size_t>(from.bytes()));
}

class TestModel {
 public:
  TestModel(const ModelConfig& config, const std::vector<int>& layers_per_stage, const BatchShape& batch, int slots = 1,
            int threads = 1, StagePurpose purpose = StagePurpose::kTraining, Dtype dtype = Dtype::kF32,
            Recompute recompute = Recompute::kNone)
      : config_(config), backend_(make_cpu_backend()) {
    Context context;
    context.backend = backend_.get();
    context.threads = threads;
    for (const StageLayout& layout : stage_layouts(config, layers_per_stage)) {
      MemoryPlan plan;
      const StageSpec spec{config, layout, batch, slots, purpose, dtype, recompute};
      Stage::plan_memory(plan, spec, context);
      slabs_.push_back(std::make_unique<Slab>(plan));
      plans_.push_back(plan);
      stages_.push_back(std::make_unique<Stage>(spec, *slabs_.back(), context));
    }
  }

  const ModelConfig& config() const { return config_; }
  int stages() const { return static_cast<int>(stages_.size()); }
  Stage& stage(int index) { return *stages_.at(static_cast<size_t>(index)); }
  const MemoryPlan& plan(int index) const { return plans_.at(static_cast<size_t>(index)); }
  const Slab& slab(int index) const { return *slabs_.at(static_cast<size_t>(index)); }

  std::vector<int> full_path() const {
    std::vector<int> path(stages_.size());
    std::iota(path.begin(), path.end(), 0);
    return path;
  }

  void initialize(uint64_t seed) {
    for (auto& stage : stages_) stage->initialize(seed);
  }
  void refresh_weights() {
    for (auto& stage : stages_) stage->refresh_weights();
  }
  void zero_gradients() {
    for (auto& stage : stages_) stage->zero_gradients();
  }
  void step(const AdamWStep& step) {
    for (auto& stage : stages_) stage->step(step);
  }

  void fill_tokens(int slot, std::span<const int32_t> tokens, std::span<const int32_t> targets) {
    std::ranges::copy(tokens, stages_[0]->tokens(slot).as<int32_t>());
    std::ranges::copy(targets, stages_[0]->targets(slot).as<int32_t>());
  }
  void fill_random_tokens(int slot, uint64_t seed) {
    Random random(seed);
    for (const Tensor& ids : {stages_[0]->tokens(slot), stages_[0]->targets(slot)})
      std::generate_n(ids.as<int32_t>(), ids.elements(),
                      [&] { return static_cast<int32_t>(random.below(static_cast<uint64_t>(config_.vocabulary))); });
  }

  // Along the path and back to stage 0; the buffers are those that messages would fill.
  void forward(int slot, std::span<const int> path) {
    stage(0).forward(slot);
    for (size_t i = 1; i < path.size(); ++i) {
      copy_values(stage(path[i]).input(slot), stage(path[i - 1]).output(slot));
      stage(path[i]).forward(slot);
    }
    copy_values(stage(0).returned(slot), stage(path.back()).output(slot));
  }
  LossSum loss(int slot) { return stage(0).loss(slot, stage(0).returned(slot)); }
  void backward(int slot, std::span<const int> path) {
    copy_values(stage(path.back()).output_gradient(slot), stage(0).loss_gradient(slot));
    for (size_t i = path.size() - 1; i > 0; --i) {
      const Tensor gradient = stage(path[i]).output_gradient(slot);
      stage(path[i]).backward(slot, gradient, gradient);
      copy_values(stage(path[i - 1]).output_gradient(slot), gradient);
    }
    stage(0).backward(slot, stage(0).output_gradient(slot), {});
  }
  LossSum run(int slot, std::span<const int> path) {
    forward(slot, path);
    const LossSum result = loss(slot);
    backward(slot, path);
    return result;
  }

  // (B,T,V), of the hidden states that came back. A stage itself never stores them.
  std::vector<float> logits(int slot) {
    Context context;
    context.backend = backend_.get();
    const auto all = parameters();
    const BatchShape& batch = stage(0).batch();
    const int64_t rows = batch.samples * batch.tokens;
    std::vector<float> normed(static_cast<size_t>(rows * config_.channels)), rrms(static_cast<size_t>(rows)),
        logits(static_cast<size_t>(rows * config_.vocabulary));
    const Tensor h(normed.data(), {rows, config_.channels}, Dtype::kF32);
    rmsnorm_forward(context, h, Tensor(rrms.data(), {rows}, Dtype::kF32),
                    stage(0).returned(slot).reshape({rows, config_.channels}), all.at("model.norm.weight").weight,
                    static_cast<float>(config_.rms_norm_eps));
    const char* head = config_.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    linear_forward(context, Tensor(logits.data(), {rows, config_.vocabulary}, Dtype::kF32), h, all.at(head).weight);
    return logits;
  }

  std::map<std::string, Parameter> parameters() const {
    std::map<std::string, Parameter> result;
    for (const auto& stage : stages_)
      for (const Parameter& parameter : stage->parameters()) result.emplace(parameter.name, parameter);
    return result;
  }
  std::map<std::string, std::vector<float>> gradients() const {
    std::map<std::string, std::vector<float>> result;
    for (const auto& [name, parameter] : parameters()) {
      const std::span<float> values = values_of(parameter.gradient);
      result[name].assign(values.begin(), values.end());
    }
    return result;
  }

 private:
  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  std::vector<MemoryPlan> plans_;
  std::vector<std::unique_ptr<Slab>> slabs_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace skippipe::test
