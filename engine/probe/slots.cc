#include "engine/probe/slots.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "engine/checkpoint/checkpoint_writer.h"
#include "kernels/cpu_backend.h"

namespace skippipe {
namespace {

MemoryPlan memory_of(StageSpec spec, int slots, const Context& context) {
  MemoryPlan plan(context.backend->device());
  spec.slots = slots;
  Stage::plan_memory_elsewhere(plan, spec, context);
  CheckpointWriter::plan_memory(plan);
  return plan;
}

}  // namespace

StageMemory stage_memory(StageSpec spec, const Context& context) {
  const int64_t one = memory_of(spec, 1, context).bytes(Place::kDevice);
  // A slot takes the same as any other.
  const int64_t slot_bytes = memory_of(spec, 2, context).bytes(Place::kDevice) - one;
  return {.state_bytes = one - slot_bytes, .slot_bytes = slot_bytes};
}

void describe_memory(Workload& workload, const ModelConfig& config, const BatchShape& batch, Dtype dtype,
                     Recompute recompute) {
  const auto backend = make_cpu_backend();
  Context context;
  context.backend = backend.get();
  for (const StageLayout& layout : stage_layouts(config, workload.stage_layers)) {
    const StageMemory memory = stage_memory(
        {.config = config, .layout = layout, .batch = batch, .dtype = dtype, .recompute = recompute}, context);
    workload.stage_state_bytes.push_back(memory.state_bytes);
    workload.stage_slot_bytes.push_back(memory.slot_bytes);
  }
}

int fitting_slots(StageSpec spec, const Context& context, const AvailableMemory& memory, int most) {
  const auto limit = static_cast<int64_t>(kStageMemoryShare * static_cast<double>(memory.bytes));
  const AvailableMemory of_host = {std::numeric_limits<int64_t>::max(), "not known"};
  memory_of(spec, 1, context)
      .check_fits({{limit, fmt::format("{:.0f} % of {}", 100 * kStageMemoryShare, memory.bound)}, of_host},
                  "a stage with one slot");
  const auto [state_bytes, slot_bytes] = stage_memory(spec, context);
  return static_cast<int>(std::min<int64_t>(most, (limit - state_bytes) / std::max<int64_t>(1, slot_bytes)));
}

}  // namespace skippipe
