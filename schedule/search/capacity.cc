#include "schedule/search/capacity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "schedule/plan/rules.h"

namespace skippipe {
namespace {

constexpr double kOutlying = 10;
constexpr int64_t kUnbounded = std::numeric_limits<int64_t>::max();

bool follows_from_memory(const PlanRequest& request, const NetworkNode& node) {
  return node.slots_from_memory && !request.workload.stage_slot_bytes.empty();
}

int64_t stage_memory(const NetworkNode& node) {
  return static_cast<int64_t>(kStageMemoryShare * static_cast<double>(node.memory_bytes));
}

// What a stage takes with one slot.
int64_t least_bytes(const Workload& workload, size_t stage) {
  return workload.stage_state_bytes[stage] + workload.stage_slot_bytes[stage];
}

std::string gigabytes(int64_t bytes) { return fmt::format("{:.3g} GB", static_cast<double>(bytes) * 1e-9); }

std::string needs(const Workload& workload, size_t stage) {
  return fmt::format("it needs {} of state and {} per slot", gigabytes(workload.stage_state_bytes[stage]),
                     gigabytes(workload.stage_slot_bytes[stage]));
}

bool are_slow(const PlanRequest& request, int a, int b) {
  const auto bytes = static_cast<double>(request.workload.activation_bytes);
  return request.network.link(a, b).transfer_s(bytes) > request.max_replica_delay_s;
}

std::optional<PlanResult> check_memory(const PlanRequest& request, const std::vector<int>& replicas, int stage) {
  for (const int node : replicas) {
    if (slots_in_stage(request, node, stage) > 0) continue;
    const NetworkNode& found = request.network.nodes[static_cast<size_t>(node)];
    return PlanResult{
        .rule = kSlotsRule,
        .why = fmt::format("node '{}' can't hold stage {}: {}, the node has {} for both", found.name, stage,
                           needs(request.workload, static_cast<size_t>(stage)), gigabytes(stage_memory(found)))};
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

// What each node has for a stage, the most first.
std::vector<int64_t> memories(const PlanRequest& request) {
  std::vector<int64_t> bytes;
  for (const NetworkNode& node : request.network.nodes)
    bytes.push_back(follows_from_memory(request, node) ? stage_memory(node) : kUnbounded);
  std::sort(bytes.rbegin(), bytes.rend());
  return bytes;
}

}  // namespace

int slots_in_stage(const PlanRequest& request, int node, int stage) {
  const NetworkNode& found = request.network.nodes[static_cast<size_t>(node)];
  if (!follows_from_memory(request, found)) return found.slots;
  const auto s = static_cast<size_t>(stage);
  const int64_t left = stage_memory(found) - request.workload.stage_state_bytes[s];
  if (left < 0) return 0;
  const int64_t slot_bytes = std::max<int64_t>(1, request.workload.stage_slot_bytes[s]);
  return static_cast<int>(std::min({left / slot_bytes, int64_t{request.microbatches}, int64_t{kMaxSlots}}));
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

// A node that can hold a stage can hold all that take less; so nodes suffice for all stages if they do for the
// greediest one, the greediest two, and so on.
std::optional<PlanResult> check_capacity(const PlanRequest& request) {
  const Workload& workload = request.workload;
  if (!request.stages.empty()) return check_placement(request, request.stages);
  if (workload.stage_slot_bytes.empty()) return std::nullopt;
  const std::vector<int64_t> memory = memories(request);
  const std::vector<int> counts = request.nodes_per_stage.empty()
                                      ? std::vector<int>(static_cast<size_t>(request.stage_count()), 1)
                                      : request.nodes_per_stage;
  std::vector<size_t> greediest(counts.size());
  std::iota(greediest.begin(), greediest.end(), size_t{0});
  std::stable_sort(greediest.begin(), greediest.end(),
                   [&](size_t a, size_t b) { return least_bytes(workload, a) > least_bytes(workload, b); });
  size_t taken = 0;
  for (const size_t stage : greediest) {
    const int64_t least = least_bytes(workload, stage);
    if (memory.front() < least)
      return PlanResult{.rule = kSlotsRule,
                        .why = fmt::format("no node can hold stage {}: {}, the largest node has {} for both", stage,
                                           needs(workload, stage), gigabytes(memory.front()))};
    taken += static_cast<size_t>(counts[stage]);
    if (taken > memory.size() || memory[taken - 1] < least)
      return PlanResult{
          .rule = kSlotsRule,
          .why = fmt::format("{} nodes can hold stage {} ({}), expected {} for it and those that need more",
                             std::count_if(memory.begin(), memory.end(), [&](int64_t m) { return m >= least; }), stage,
                             needs(workload, stage), taken)};
  }
  return std::nullopt;
}

}  // namespace skippipe
