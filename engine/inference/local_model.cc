#include "engine/inference/local_model.h"

#include <fmt/format.h>

#include "base/error.h"
#include "kernels/copy.h"

namespace skippipe {
namespace {

// All stages side by side.
void require_room(const std::vector<MemoryPlan>& plans, const AvailableMemory& there) {
  int64_t bytes = 0, activations = 0;
  for (const MemoryPlan& plan : plans) {
    bytes += plan.bytes(Place::kDevice);
    activations += plan.bytes(Region::kActivations) + plan.bytes(Region::kWorkspace);
  }
  require_memory("the model needs", bytes, there, fmt::format(", {} of them for a batch", human_bytes(activations)));
}

}  // namespace

LocalModel::LocalModel(std::unique_ptr<Backend> backend, const ModelConfig& config,
                       std::span<const int> layers_per_stage, const BatchShape& batch, int threads,
                       StagePurpose purpose, Dtype dtype)
    : backend_(std::move(backend)), stream_(backend_->runtime()) {
  constexpr int kSlots = 1;
  Context context;
  context.backend = backend_.get();
  context.threads = threads;
  context.stream = stream_.get();
  std::vector<StageSpec> specs;
  std::vector<MemoryPlan> plans;
  for (const StageLayout& layout : stage_layouts(config, layers_per_stage)) {
    specs.push_back({config, layout, batch, kSlots, purpose, dtype});
    Stage::plan_memory(plans.emplace_back(backend_->device()), specs.back(), context);
  }
  require_room(plans, MemoryLimits::of(*backend_).device);
  for (size_t i = 0; i < specs.size(); ++i) {
    slabs_.push_back(std::make_unique<Slab>(plans[i], *backend_));
    stages_.push_back(std::make_unique<Stage>(specs[i], *slabs_.back(), context));
  }
}

void LocalModel::finish() { backend_->runtime().finish(stream_.get()); }

ConstTensor LocalModel::forward_from_first(std::span<const int> path) {
  SKP_CHECK(!path.empty() && path.front() == 0, "a path begins at stage 0");
  Tensor hidden = stage(0).output(0);
  for (const int index : path.subspan(1)) {
    Stage& next = stage(index);
    copy(next.context(), next.input(0), hidden);
    next.forward(0);
    hidden = next.output(0);
  }
  return hidden;
}

}  // namespace skippipe
