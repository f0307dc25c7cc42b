#include "engine/slots.h"

#include <algorithm>

namespace skippipe {

int fitting_slots(StageSpec spec, const Context& context, int64_t memory_bytes, int most) {
  const auto limit = static_cast<int64_t>(kStageMemoryShare * static_cast<double>(memory_bytes));
  const auto memory_of = [&](int slots) {
    MemoryPlan plan;
    spec.slots = slots;
    Stage::plan_memory(plan, spec, context);
    return plan;
  };
  // A slot takes the same as any other.
  const MemoryPlan one = memory_of(1);
  one.check_fits(limit, "a stage with one slot");
  const int64_t slot_bytes = std::max<int64_t>(1, memory_of(2).total_bytes() - one.total_bytes());
  const int64_t more = (limit - one.total_bytes()) / slot_bytes;
  return static_cast<int>(std::min<int64_t>(most, 1 + more));
}

}  // namespace skippipe
