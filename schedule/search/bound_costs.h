// What floors count with.
#pragma once

#include <algorithm>

#include "schedule/search/paths.h"
#include "schedule/search/planner.h"

namespace skippipe {

// Costs of tasks and messages as the simulator has them, in seconds. Keeps a reference to the request.
class BoundCosts {
 public:
  explicit BoundCosts(const PlanRequest& request) : request_(request) {}

  double forward_s(int node, size_t stage) const { return task_seconds(request_, node, stage).forward_s; }
  double backward_s(int node, size_t stage) const { return task_seconds(request_, node, stage).backward_s; }
  double work_s(int node, size_t stage) const { return forward_s(node, stage) + backward_s(node, stage); }
  double loss_s(int node) const { return task_seconds(request_, node, 0).loss_s; }
  double step_s(int node, size_t stage) const { return task_seconds(request_, node, stage).step_s; }
  double fixed_s(int from, int to) const {
    const Link& link = request_.network.link(from, to);
    return link.latency_s + link.overhead_s;
  }
  double uplink_s(int from, double bytes) const {
    return at(from).uplink_bytes_per_s > 0 ? bytes / at(from).uplink_bytes_per_s : 0;
  }
  // Of a message that finds its way free.
  double message_s(int from, int to, double bytes) const {
    return fixed_s(from, to) + std::max(request_.network.link(from, to).occupied_s(bytes), uplink_s(from, bytes));
  }
  double hop_s(int from, int to) const { return message_s(from, to, activation_bytes()); }
  double both_ways_s(int a, int b) const { return hop_s(a, b) + hop_s(b, a); }
  double activation_bytes() const { return static_cast<double>(request_.workload.activation_bytes); }

 private:
  const NetworkNode& at(int node) const { return request_.network.nodes[static_cast<size_t>(node)]; }

  const PlanRequest& request_;
};

}  // namespace skippipe
