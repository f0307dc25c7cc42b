// The measured network that a plan is made for: nodes with their speed and memory, and directed links between them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "schedule/plan/measured_for.h"

namespace skippipe {

// Of a network.
inline constexpr int kMaxNodes = 4096;

// Of a node: what network and plan files may say, and what planners find room for.
inline constexpr int kMaxSlots = 4096;

struct NetworkNode {
  std::string name;
  std::string region;
  std::string device = "cpu";
  // Seconds of a forward pass per transformer layer and sample (a sequence of the planned length).
  double forward_s = 0;
  double backward_over_forward = 1.5;
  // Loss (LM head, cross-entropy and their gradients) of a sample over the forward pass of the node's whole stage; or,
  // as measured, in seconds, which holds for a stage of any depth.
  double loss_over_forward = 0.25;
  std::optional<double> loss_s = {};
  // Optimizer step, seconds per byte of the stage's gradients.
  double step_s_per_byte = 0;
  // Microbatches whose activations the node holds at once (T1); fewer where its memory_bytes are known and hold fewer
  // of its stage's (schedule/search/capacity.h).
  int slots = 3;
  // There as many as the memory holds: nobody gave a number.
  bool slots_from_memory = false;
  // Shared by all that the node sends; 0: not shared, its links alone count.
  double uplink_bytes_per_s = 0;
  // What the node's device had to give when it was measured; 0: not known.
  int64_t memory_bytes = 0;
};

// A message of n bytes occupies the link for n / bandwidth, and arrives latency + overhead after that. Where the sender
// has an uplink, it occupies that as well, from the same moment, and arrives latency + overhead after leaving both.
struct Link {
  double latency_s = 0;
  double bandwidth_bytes_per_s = 0;  // 0: infinite
  double overhead_s = 0;             // fixed, per message

  double occupied_s(double bytes) const { return bandwidth_bytes_per_s > 0 ? bytes / bandwidth_bytes_per_s : 0; }
  double transfer_s(double bytes) const { return latency_s + overhead_s + occupied_s(bytes); }
  bool operator==(const Link&) const = default;
};

struct Network {
  std::vector<NetworkNode> nodes;
  std::vector<Link> links;  // nodes x nodes, row = from, column = to
  // What the nodes' seconds are for; none: whoever wrote them did not say.
  std::optional<MeasuredFor> measured_for = {};

  int size() const { return static_cast<int>(nodes.size()); }
  const Link& link(int from, int to) const {
    return links[static_cast<size_t>(from) * nodes.size() + static_cast<size_t>(to)];
  }
  Link& link(int from, int to) { return links[static_cast<size_t>(from) * nodes.size() + static_cast<size_t>(to)]; }
};

// Some of a network's nodes, in this order, and the links between them.
Network subnetwork(const Network& network, const std::vector<int>& nodes);

// Format "skippipe-network"; schedule/FILES.md documents it. Throws FileError or PlanError. Links that are alike
// between two regions are saved once; thousands of nodes whose links all differ make a file that is too large to be
// read, which is refused.
Network read_network(const JsonReader& root);
Network load_network(const std::filesystem::path& path);
void save_network(const Network& network, const std::filesystem::path& path);

}  // namespace skippipe
