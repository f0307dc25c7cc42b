#include "engine/inference/local_model.h"

#include "base/error.h"
#include "kernels/copy.h"

namespace skippipe {

LocalModel::LocalModel(std::unique_ptr<Backend> backend, const ModelConfig& config,
                       std::span<const int> layers_per_stage, const BatchShape& batch, int threads,
                       StagePurpose purpose, Dtype dtype)
    : backend_(std::move(backend)), stream_(backend_->runtime()) {
  constexpr int kSlots = 1;
  Context context;
  context.backend = backend_.get();
  context.threads = threads;
  context.stream = stream_.get();
  for (const StageLayout& layout : stage_layouts(config, layers_per_stage)) {
    MemoryPlan plan(backend_->device());
    const StageSpec spec{config, layout, batch, kSlots, purpose, dtype};
    Stage::plan_memory(plan, spec, context);
    slabs_.push_back(std::make_unique<Slab>(plan, *backend_));
    stages_.push_back(std::make_unique<Stage>(spec, *slabs_.back(), context));
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
