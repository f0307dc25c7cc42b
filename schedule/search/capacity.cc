#include "schedule/search/capacity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <set>

#include "base/number_text.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/stage_memory.h"

namespace skippipe {
namespace {

constexpr double kOutlying = 10;

std::string needs(const PlanRequest& request, const NetworkNode& node, size_t stage) {
  return fmt::format("it needs {} of state and {} per slot", human_bytes(state_bytes(node, request.workload, stage)),
                     human_bytes(request.workload.stage_slot_bytes[stage]));
}

// Of a node that can't hold a stage: what it has for it, and what would take less.
std::string has_too_little(const PlanRequest& request, const NetworkNode& node, size_t stage) {
  const bool state_fits = state_bytes(node, request.workload, stage) <= room_bytes(node);
  const std::string room = node.slots_from_memory
                               ? fmt::format("{} for both ({:.0f} % of its {})", human_bytes(room_bytes(node)),
                                             100 * kStageMemoryShare, human_bytes(node.memory_bytes))
                               : fmt::format("{} for both", human_bytes(node.memory_bytes));
  return fmt::format(
      "has {}: {}", room,
      state_fits ? "--recompute or fewer --samples take less per slot" : "with more stages each takes less");
}

bool are_slow(const PlanRequest& request, int a, int b) {
  const auto bytes = static_cast<double>(request.workload.activation_bytes);
  return request.network.link(a, b).transfer_s(bytes) > request.max_replica_delay_s;
}

std::optional<PlanResult> check_memory(const PlanRequest& request, const std::vector<int>& replicas, int stage) {
  for (const int node : replicas) {
    if (slots_in_stage(request, node, stage) > 0) continue;
    const NetworkNode& found = request.network.nodes[static_cast<size_t>(node)];
    return PlanResult{.rule = kSlotsRule,
                      .why = fmt::format("node '{}' can't hold stage {}: {}, the node {}", found.name, stage,
                                         needs(request, found, static_cast<size_t>(stage)),
                                         has_too_little(request, found, static_cast<size_t>(stage)))};
  }
  return std::nullopt;
}

std::optional<PlanResult> check_delays(const PlanRequest& request, const std::vector<int>& replicas, int stage) {
  for (const int a : replicas)
    for (const int b : replicas) {
      if (a == b || !are_slow(request, a, b)) continue;
      const auto bytes = static_cast<double>(request.workload.activation_bytes);
      return PlanResult{
          .rule = kReplicaDelayRule,
          .why = fmt::format("a message of activations takes {:.3f} s from node '{}' to '{}' of stage {}, "
                             "at most {:.3f} s is allowed between replicas",
                             request.network.link(a, b).transfer_s(bytes),
                             request.network.nodes[static_cast<size_t>(a)].name,
                             request.network.nodes[static_cast<size_t>(b)].name, stage, request.max_replica_delay_s)};
    }
  return std::nullopt;
}

// Stages by what they take with one slot, the most first.
std::vector<int> greediest_stages(const Workload& workload) {
  std::vector<int> stages(workload.stage_slot_bytes.size());
  std::iota(stages.begin(), stages.end(), 0);
  std::ranges::stable_sort(stages, std::greater(), [&](int stage) {
    const auto s = static_cast<size_t>(stage);
    return workload.stage_state_bytes[s] + workload.stage_slot_bytes[s];
  });
  return stages;
}

std::vector<int> nodes_that_hold(const PlanRequest& request, int stage) {
  std::vector<int> nodes;
  for (int node = 0; node < request.network.size(); ++node)
    if (slots_in_stage(request, node, stage) > 0) nodes.push_back(node);
  return nodes;
}

PlanResult nobody_holds(const PlanRequest& request, int stage) {
  const NetworkNode& largest = *std::ranges::max_element(request.network.nodes, {}, &NetworkNode::memory_bytes);
  return {.rule = kSlotsRule,
          .why = fmt::format("no node can hold stage {}: {}, the largest, '{}', {}", stage,
                             needs(request, largest, static_cast<size_t>(stage)), largest.name,
                             has_too_little(request, largest, static_cast<size_t>(stage)))};
}

}  // namespace

int slots_in_stage(const PlanRequest& request, int node, int stage) {
  const NetworkNode& found = request.network.nodes[static_cast<size_t>(node)];
  const Workload& workload = request.workload;
  if (!memory_decides(found, workload)) return found.slots;
  const auto s = static_cast<size_t>(stage);
  const int64_t most = std::min<int64_t>(request.microbatches, found.slots_from_memory ? kMaxSlots : found.slots);
  return static_cast<int>(std::min(slots_in_memory(found, workload, s), most));
}

bool assign_slots(const PlanRequest& request, Plan& plan) {
  plan.node_slots.clear();
  for (const NetworkNode& node : request.network.nodes) plan.node_slots.push_back(node.slots);
  bool all_fit = true;
  for (size_t stage = 0; stage < plan.stages.size(); ++stage)
    for (const int node : plan.stages[stage]) {
      int& slots = plan.node_slots[static_cast<size_t>(node)];
      slots = slots_in_stage(request, node, static_cast<int>(stage));
      all_fit = all_fit && slots > 0;
    }
  return all_fit;
}

int count_misfits(const PlanRequest& request, const std::vector<int>& replicas, int stage) {
  auto count = static_cast<int>(
      std::ranges::count_if(replicas, [&](int node) { return slots_in_stage(request, node, stage) < 1; }));
  if (std::isinf(request.max_replica_delay_s)) return count;
  for (const int a : replicas)
    for (const int b : replicas) count += a != b && are_slow(request, a, b) ? 1 : 0;
  return count;
}

std::optional<PlanResult> check_placement(const PlanRequest& request, const std::vector<std::vector<int>>& stages) {
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    if (auto misfit = check_memory(request, stages[stage], static_cast<int>(stage))) return misfit;
    if (auto slow = check_delays(request, stages[stage], static_cast<int>(stage))) return slow;
  }
  return std::nullopt;
}

double default_replica_delay_s(const Network& network, const Workload& workload) {
  if (std::ranges::any_of(workload.stage_gradient_bytes, [](int64_t bytes) { return bytes > 0; }))
    return std::numeric_limits<double>::infinity();
  const auto bytes = static_cast<double>(workload.activation_bytes);
  std::vector<double> delays;
  for (int a = 0; a < network.size(); ++a)
    for (int b = 0; b < network.size(); ++b)
      if (a != b) delays.push_back(network.link(a, b).transfer_s(bytes));
  if (delays.empty()) return std::numeric_limits<double>::infinity();
  const auto median = delays.begin() + std::ssize(delays) / 2;
  std::nth_element(delays.begin(), median, delays.end());
  return kOutlying * *median;
}

// A node that can hold a stage can hold all that take less (but for GPUs beside CPUs, whose states differ); so nodes
// suffice for all stages if they do for the greediest one, the greediest two, and so on.
std::optional<PlanResult> check_capacity(const PlanRequest& request) {
  const Workload& workload = request.workload;
  if (!request.stages.empty()) return check_placement(request, request.stages);
  if (workload.stage_slot_bytes.empty()) return std::nullopt;
  const std::vector<int> counts = request.nodes_per_stage.empty()
                                      ? std::vector<int>(static_cast<size_t>(request.stage_count()), 1)
                                      : request.nodes_per_stage;
  std::set<int> hold_any;  // of the stages so far
  int taken = 0;
  for (const int stage : greediest_stages(workload)) {
    const std::vector<int> hold = nodes_that_hold(request, stage);
    if (hold.empty()) return nobody_holds(request, stage);
    hold_any.insert(hold.begin(), hold.end());
    taken += counts[static_cast<size_t>(stage)];
    if (std::ssize(hold_any) < taken)
      return PlanResult{.rule = kSlotsRule,
                        .why = fmt::format(
                            "{} nodes can hold stage {} ({}), expected {} for it and those that need more", hold.size(),
                            stage, needs(request, request.network.nodes.front(), static_cast<size_t>(stage)), taken)};
  }
  return std::nullopt;
}

}  // namespace skippipe
