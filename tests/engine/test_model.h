// A model cut into stages that live in one process, for tests: the oracle that needs no messages.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "engine/model/memory.h"
#include "engine/model/stage.h"
#include "kernels/backend.h"
#include "kernels/copy.h"
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

// On the host.
inline std::span<float> values_of(const Tensor& tensor) {
  return {tensor.as<float>(), static_cast<size_t>(tensor.elements())};
}

class TestModel {
 public:
  TestModel(const ModelConfig& config, const std::vector<int>& layers_per_stage, const BatchShape& batch, int slots = 1,
            int threads = 1, StagePurpose purpose = StagePurpose::kTraining, Dtype dtype = Dtype::kF32,
            Recompute recompute = Recompute::kNone, std::unique_ptr<Backend> backend = make_cpu_backend())
      : config_(config),
        backend_(std::move(backend)),
        stream_(backend_->runtime()),
        tokens_(static_cast<size_t>(slots)),
        targets_(tokens_.size()) {
    context_.backend = backend_.get();
    context_.stream = stream_.get();
    context_.threads = threads;
    for (const StageLayout& layout : stage_layouts(config, layers_per_stage)) {
      MemoryPlan plan(backend_->device());
      const StageSpec spec{config, layout, batch, slots, purpose, dtype, recompute};
      Stage::plan_memory(plan, spec, context_);
      slabs_.push_back(std::make_unique<Slab>(plan, *backend_));
      plans_.push_back(plan);
      stages_.push_back(std::make_unique<Stage>(spec, *slabs_.back(), context_));
    }
  }

  const ModelConfig& config() const { return config_; }
  Backend& backend() { return *backend_; }

  // Between the host and wherever the model's tensors lie.
  void copy(const Tensor& to, const ConstTensor& from) {
    skippipe::copy(context_, to, from);
    finish(context_);
  }
  std::vector<float> read(const Tensor& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    copy(host_tensor(std::span(values)), tensor);
    return values;
  }
  void write(const Tensor& tensor, std::span<const float> values) { copy(tensor, host_tensor(values)); }
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
    tokens_.at(static_cast<size_t>(slot)).assign(tokens.begin(), tokens.end());
    targets_.at(static_cast<size_t>(slot)).assign(targets.begin(), targets.end());
    stages_[0]->set_batch(slot, tokens, targets);
  }
  void fill_random_tokens(int slot, uint64_t seed) {
    Random random(seed);
    const BatchShape& batch = stage(0).batch();
    std::vector<int32_t> tokens(static_cast<size_t>(batch.samples * batch.tokens)), targets(tokens.size());
    for (std::vector<int32_t>* ids : {&tokens, &targets})
      std::ranges::generate(
          *ids, [&] { return static_cast<int32_t>(random.below(static_cast<uint64_t>(config_.vocabulary))); });
    fill_tokens(slot, tokens, targets);
  }
  const std::vector<int32_t>& tokens(int slot) const { return tokens_.at(static_cast<size_t>(slot)); }
  const std::vector<int32_t>& targets(int slot) const { return targets_.at(static_cast<size_t>(slot)); }

  // Along the path and back to stage 0; the buffers are those that messages would fill.
  void forward(int slot, std::span<const int> path) {
    stage(0).forward(slot);
    for (size_t i = 1; i < path.size(); ++i) {
      copy(stage(path[i]).input(slot), stage(path[i - 1]).output(slot));
      stage(path[i]).forward(slot);
    }
    copy(stage(0).returned(slot), stage(path.back()).output(slot));
  }
  LossSum loss(int slot) { return stage(0).loss(slot, stage(0).returned(slot)); }
  void backward(int slot, std::span<const int> path) {
    copy(stage(path.back()).output_gradient(slot), stage(0).loss_gradient(slot));
    for (size_t i = path.size() - 1; i > 0; --i) {
      const Tensor gradient = stage(path[i]).output_gradient(slot);
      stage(path[i]).backward(slot, gradient, gradient);
      copy(stage(path[i - 1]).output_gradient(slot), gradient);
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
    SKP_CHECK(backend_->device() == Device::kCpu);
    const auto all = parameters();
    const BatchShape& batch = stage(0).batch();
    const int64_t rows = batch.samples * batch.tokens;
    std::vector<float> normed(static_cast<size_t>(rows * config_.channels)), rrms(static_cast<size_t>(rows)),
        logits(static_cast<size_t>(rows * config_.vocabulary));
    const Tensor h(normed.data(), {rows, config_.channels}, Dtype::kF32);
    rmsnorm_forward(context_, h, Tensor(rrms.data(), {rows}, Dtype::kF32),
                    stage(0).returned(slot).reshape({rows, config_.channels}), all.at("model.norm.weight").weight,
                    static_cast<float>(config_.rms_norm_eps));
    const char* head = config_.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    linear_forward(context_, Tensor(logits.data(), {rows, config_.vocabulary}, Dtype::kF32), h, all.at(head).weight);
    return logits;
  }

  std::map<std::string, Parameter> parameters() const {
    std::map<std::string, Parameter> result;
    for (const auto& stage : stages_)
      for (const Parameter& parameter : stage->parameters()) result.emplace(parameter.name, parameter);
    return result;
  }
  std::map<std::string, std::vector<float>> gradients() {
    std::map<std::string, std::vector<float>> result;
    for (const auto& [name, parameter] : parameters()) result[name] = read(parameter.gradient);
    return result;
  }

 private:
  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  OwnedStream stream_;
  Context context_;
  std::vector<std::vector<int32_t>> tokens_, targets_;  // by slot
  std::vector<MemoryPlan> plans_;
  std::vector<std::unique_ptr<Slab>> slabs_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace skippipe::test
