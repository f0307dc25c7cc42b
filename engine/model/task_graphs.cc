#include "engine/model/task_graphs.h"

#include "kernels/backend.h"

namespace skippipe {

void TaskGraphs::run_recorded(Context& ctx, const Key& key, const std::function<void()>& work) {
  const auto [entry, first] = graphs_.try_emplace(key);
  if (first) return work();
  if (entry->second == nullptr) {
    entry->second = ctx.backend->runtime().capture(ctx.stream, work);
    device_has_none_ = entry->second == nullptr;
    if (device_has_none_) return work();
    ++recorded_;
  }
  entry->second->replay(ctx.stream);
}

}  // namespace skippipe
