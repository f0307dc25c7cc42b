// A stage's tasks, recorded once per slot as graphs of the device and replayed from then on.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <tuple>

#include "kernels/context.h"
#include "kernels/runtime.h"

namespace skippipe {

// What a task does to a slot is the same each time, as slots have fixed addresses: on a GPU one launch then replaces
// some hundreds. Used by the stage's thread.
class TaskGraphs {
 public:
  // A task with all that it depends on: which one, its slot, and what its caller gave it.
  using Key = std::tuple<int, int, const void*, const void*>;

  // Queues the work on ctx's stream: the first time as it is, so that libraries take what they need, then as the graph
  // that was recorded the second time. Where the device has no graphs, or they are turned off: always as it is.
  template <typename Work>
  void run(Context& ctx, const Key& key, const Work& work) {
    if (can_record(ctx))
      run_recorded(ctx, key, work);
    else
      work();
  }

  void turn(bool on) { on_ = on; }
  int64_t recorded() const { return recorded_; }

 private:
  // The default stream, which the CPU has alone, records nothing.
  bool can_record(const Context& ctx) const { return on_ && !device_has_none_ && ctx.stream != nullptr; }
  void run_recorded(Context& ctx, const Key& key, const std::function<void()>& work);

  bool on_ = true;
  bool device_has_none_ = false;
  int64_t recorded_ = 0;
  std::map<Key, std::unique_ptr<Graph>> graphs_;  // null: the work has run once
};

}  // namespace skippipe
