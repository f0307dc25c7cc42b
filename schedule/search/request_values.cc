#include "schedule/search/request_values.h"

#include <vector>

#include "base/error.h"

namespace skippipe {
namespace {

constexpr double kMaxBytes = static_cast<double>(int64_t{1} << 50);  // as plan files
constexpr double kMaxMicrobatches = 1 << 16;                         // as plan files
constexpr double kMaxSeconds = 1e6;                                  // as network files
constexpr double kMaxCount = 1 << 20;

// Negated, so that NaN fails, too.
void require(double found, double low, double high, const char* field) {
  if (!(found >= low && found <= high)) throw ConfigError("{}: found {}, expected {} to {}", field, found, low, high);
}

template <typename Number>
void require_list(const std::vector<Number>& found, size_t stages, double low, double high, const char* field) {
  if (found.size() != stages) throw ConfigError("{} of {} stages, expected {}", field, found.size(), stages);
  for (const Number number : found) require(static_cast<double>(number), low, high, field);
}

void check_rules(const PlanRules& rules) {
  require(rules.skip_ratio, 0, 1, "skip_ratio");
  require(rules.max_swaps, 0, kMaxCount, "max_swaps");
  require(rules.max_swap_distance, 0, kMaxCount, "max_swap_distance");
  require(rules.max_jump, 1, kMaxCount, "max_jump");
}

void check_workload(const Workload& workload) {
  const size_t stages = workload.stage_layers.size();
  require(workload.samples, 1, kMaxCount, "samples");
  require(static_cast<double>(workload.activation_bytes), 0, kMaxBytes, "activation_bytes");
  for (size_t s = 0; s < stages; ++s) require(workload.stage_layers[s], fewest_layers(s), kMaxCount, "stage_layers");
  require_list(workload.stage_gradient_bytes, stages, 0, kMaxBytes, "stage_gradient_bytes");
  if (workload.stage_state_bytes.empty() && workload.stage_slot_bytes.empty()) return;
  require_list(workload.stage_state_bytes, stages, 0, kMaxBytes, "stage_state_bytes");
  require_list(workload.stage_slot_bytes, stages, 0, kMaxBytes, "stage_slot_bytes");
}

void check_node(const NetworkNode& node) {
  const auto field = [&](const char* name) { return fmt::format("node '{}': {}", node.name, name); };
  require(node.forward_s, 0, kMaxSeconds, field("forward_s").c_str());
  require(node.backward_over_forward, 0, 1000, field("backward_over_forward").c_str());
  require(node.loss_over_forward, 0, 1000, field("loss_over_forward").c_str());
  if (node.loss_s) require(*node.loss_s, 0, kMaxSeconds, field("loss_s").c_str());
  require(node.step_s_per_byte, 0, 1, field("step_s_per_byte").c_str());
  require(node.uplink_bytes_per_s, 0, 1e18, field("uplink_bytes_per_s").c_str());
  require(node.slots, 1, kMaxSlots, field("slots").c_str());
  require(static_cast<double>(node.memory_bytes), 0, 1e18, field("memory_bytes").c_str());
}

void check_links(const Network& network) {
  if (network.links.size() != network.nodes.size() * network.nodes.size())
    throw ConfigError("links: found {}, expected one for each pair of {} nodes", network.links.size(),
                      network.nodes.size());
  for (int from = 0; from < network.size(); ++from)
    for (int to = 0; to < network.size(); ++to) {
      const Link& link = network.link(from, to);
      const auto require_field = [&](double found, double high, const char* name) {
        if (!(found >= 0 && found <= high))
          throw ConfigError("link from '{}' to '{}': {}: found {}, expected 0 to {}",
                            network.nodes[static_cast<size_t>(from)].name, network.nodes[static_cast<size_t>(to)].name,
                            name, found, high);
      };
      require_field(link.latency_s, kMaxSeconds, "latency_s");
      require_field(link.bandwidth_bytes_per_s, 1e18, "bandwidth_bytes_per_s");
      require_field(link.overhead_s, kMaxSeconds, "overhead_s");
    }
}

}  // namespace

void check_values(const PlanRequest& request) {
  require(request.microbatches, 1, kMaxMicrobatches, "microbatches");
  check_rules(request.rules);
  check_workload(request.workload);
  for (const NetworkNode& node : request.network.nodes) check_node(node);
  check_links(request.network);
  if (!(request.max_replica_delay_s >= 0))
    throw ConfigError("max_replica_delay_s: found {}, expected 0 or more", request.max_replica_delay_s);
}

}  // namespace skippipe
