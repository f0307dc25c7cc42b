#include "engine/run/run_memory.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <utility>

#include "base/error.h"

namespace skippipe {
namespace {

// Of the device: what a GPU's node takes of the host does not depend on what it recomputes.
int64_t node_bytes(const TrainingRun& run, int node, Backend& backend) {
  return plan_node_memory(run, node, backend).bytes(Place::kDevice);
}

int64_t total_bytes(const TrainingRun& run, std::span<const int> nodes, Backend& backend) {
  int64_t sum = 0;
  for (const int node : nodes) sum += node_bytes(run, node, backend);
  return sum;
}

// For what the nodes plan, side by side on the backend's device.
AvailableMemory available_to(std::span<const int> nodes, Backend& backend) {
  AvailableMemory there = backend.runtime().available_to_all(Place::kDevice);
  return backend.device() == Device::kCpu ? without_processes(std::move(there), std::ssize(nodes)) : there;
}

// The same run, left to choose.
TrainingRun with_choice(TrainingRun run, std::span<const int> on_this_device, Backend& backend) {
  run.file.recompute = "auto";
  choose_recompute(run, backend, on_this_device);
  return run;
}

// Fewer or smaller microbatches in flight on the node; such a run needs another plan.
TrainingRun with_less(TrainingRun run, int node, int64_t slots, int64_t samples) {
  run.plan.node_slots[static_cast<size_t>(node)] = static_cast<int>(slots);
  run.file.samples = samples;
  return run;
}

// The largest number in [1, most] of which no more than limit_bytes are needed, which grow with it; 0: none.
int64_t largest_fitting(int64_t most, int64_t limit_bytes, const std::function<int64_t(int64_t)>& bytes_of) {
  int64_t fitting = 0, too_many = most + 1;
  while (too_many - fitting > 1) {
    const int64_t middle = fitting + (too_many - fitting) / 2;
    (bytes_of(middle) <= limit_bytes ? fitting : too_many) = middle;
  }
  return fitting;
}

// What a plan made anew, with a smaller microbatch or fewer of them, makes of a node that recomputes as much as it can.
std::string advice_for_new_plan(const TrainingRun& run, int node, int64_t limit_bytes, Backend& backend) {
  const auto bytes_of = [&](int64_t slots, int64_t samples) {
    return node_bytes(with_less(run, node, slots, samples), node, backend);
  };
  const auto bytes_of_slots = [&](int64_t slots) { return bytes_of(slots, run.file.samples); };
  const auto bytes_of_samples = [&](int64_t samples) { return bytes_of(1, samples); };
  const int planned = run.plan.node_slots[static_cast<size_t>(node)];
  if (const int64_t slots = largest_fitting(planned, limit_bytes, bytes_of_slots); slots > 0)
    return fmt::format("slots = {} in the network file, which are {}, and a new plan take {}", slots, planned,
                       human_bytes(bytes_of_slots(slots)));
  if (const int64_t samples = largest_fitting(run.file.samples, limit_bytes, bytes_of_samples); samples > 0)
    return fmt::format("slots = 1 in the network file, data.samples = {} and a new plan take {}", samples,
                       human_bytes(bytes_of_samples(samples)));
  return fmt::format("one slot of one sample takes {}: it would need shorter samples or a plan of more stages",
                     human_bytes(bytes_of(1, 1)));
}

// Which setting would make the node fit.
std::string advice(const TrainingRun& run, int node, int64_t limit_bytes, Backend& backend) {
  const TrainingRun best = with_choice(run, {}, backend);
  const int64_t bytes = node_bytes(best, node, backend);
  const std::string setting = fmt::format("compute.recompute = \"{}\"", recompute_name(best.recompute_of(node)));
  if (bytes <= limit_bytes) return fmt::format("{} takes {}", setting, human_bytes(bytes));
  const std::string smaller = advice_for_new_plan(best, node, limit_bytes, backend);
  if (best.recompute_of(node) == run.recompute_of(node)) return fmt::format("with {} already, {}", setting, smaller);
  return fmt::format("{} takes {}; with it, {}", setting, human_bytes(bytes), smaller);
}

std::string advice(const TrainingRun& run, std::span<const int> nodes, int64_t available_bytes, Backend& backend) {
  const TrainingRun best = with_choice(run, nodes, backend);
  const int64_t bytes = total_bytes(best, nodes, backend);
  const std::string setting =
      run.file.recompute == "auto" ? "" : fmt::format("compute.recompute = \"auto\" takes {}", human_bytes(bytes));
  if (bytes <= available_bytes) return setting;
  return setting + (setting.empty() ? "" : "; ") +
         "fewer nodes on this machine, or a new plan with fewer slots or a smaller data.samples, take less";
}

}  // namespace

void choose_recompute(TrainingRun& run, Backend& backend, std::span<const int> on_this_device) {
  if (run.file.recompute != "auto") return;
  const auto nodes = run.network.nodes.size();
  const int64_t limit_bytes = memory_limits(run, backend).device.bytes;
  std::vector<int64_t> bytes(nodes, std::numeric_limits<int64_t>::max());
  run.recompute.assign(nodes, Recompute::kNone);
  TrainingRun changed = run;
  const auto recompute_where_it_saves = [&](Recompute recompute, size_t node) {
    changed.recompute[node] = recompute;
    const int64_t changed_bytes = node_bytes(changed, static_cast<int>(node), backend);
    if (changed_bytes >= bytes[node]) return;
    bytes[node] = changed_bytes;
    run.recompute[node] = recompute;
  };
  for (const Recompute recompute : kRecomputes)
    for (size_t node = 0; node < nodes; ++node)
      if (bytes[node] > limit_bytes) recompute_where_it_saves(recompute, node);

  if (on_this_device.empty()) return;
  const int64_t available_bytes = available_to(on_this_device, backend).bytes;
  for (const Recompute recompute : kRecomputes) {
    if (total_bytes(run, on_this_device, backend) <= available_bytes) return;
    for (const int node : on_this_device) recompute_where_it_saves(recompute, static_cast<size_t>(node));
  }
}

std::string memory_table(const TrainingRun& run, int node, Backend& backend) {
  const auto index = static_cast<size_t>(node);
  return fmt::format("memory of node {} ({}), stage {}:\n{}", node, run.network.nodes[index].name,
                     run.plan.stage_of_nodes()[index], plan_node_memory(run, node, backend).table());
}

void check_memory(const TrainingRun& run, Backend& backend, int node) {
  const MemoryLimits limits = memory_limits(run, backend);
  const MemoryPlan memory = plan_node_memory(run, node, backend);
  try {
    memory.check_fits(limits, run.network.nodes[static_cast<size_t>(node)].name);
  } catch (const MemoryError& error) {
    if (memory.bytes(Place::kDevice) <= limits.device.bytes) throw;  // of the host, for which no setting helps
    throw MemoryError("{}; {}", error.what(), advice(run, node, limits.device.bytes, backend));
  }
}

void check_memory(const TrainingRun& run, Backend& backend, std::span<const int> on_this_device) {
  for (const int node : on_this_device) check_memory(run, backend, node);
  const int64_t needed = total_bytes(run, on_this_device, backend);
  const AvailableMemory there = available_to(on_this_device, backend);
  try {
    require_memory(fmt::format("the {} nodes need", on_this_device.size()), needed, there);
  } catch (const MemoryError& error) {
    throw MemoryError("{}; {}", error.what(), advice(run, on_this_device, there.bytes, backend));
  }
}

}  // namespace skippipe
