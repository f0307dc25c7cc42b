#include "engine/local_model.h"

#include <cstring>

#include "base/error.h"
#include "kernels/cpu_backend.h"

namespace skippipe {

LocalModel::LocalModel(const ModelConfig& config, std::span<const int> layers_per_stage, const BatchShape& batch,
                       int threads, StagePurpose purpose, Dtype dtype)
    : backend_(make_cpu_backend()) {
  constexpr int kSlots = 1;
  Context context;
  context.backend = backend_.get();
  context.threads = threads;
  for (const StageLayout& layout : stage_layouts(config, layers_per_stage)) {
    MemoryPlan plan;
    const StageSpec spec{config, layout, batch, kSlots, purpose, dtype};
    Stage::plan_memory(plan, spec, context);
    slabs_.push_back(std::make_unique<Slab>(plan));
    stages_.push_back(std::make_unique<Stage>(spec, *slabs_.back(), context));
  }
}

ConstTensor LocalModel::forward_from_first(std::span<const int> path) {
  SKP_CHECK(!path.empty() && path.front() == 0, "a path begins at stage 0");
  Tensor hidden = stage(0).output(0);
  for (const int index : path.subspan(1)) {
    Stage& next = stage(index);
    std::memcpy(next.input(0).data(), hidden.data(), static_cast<size_t>(hidden.bytes()));
    next.forward(0);
    hidden = next.output(0);
  }
  return hidden;
}

}  // namespace skippipe
