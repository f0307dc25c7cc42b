#include "schedule/search/router.h"

#include <algorithm>

#include "schedule/search/capacity.h"
#include "schedule/search/paths.h"

namespace skippipe {
namespace {

// Waiting grows without limit as a queue's load nears 1 (as in an M/M/1 queue); plans pass it for a while.
constexpr double kMostLoad = 0.95;

double waiting(double busy_s, double available_s) {
  const double load = std::min(kMostLoad, std::max(0.0, busy_s) / available_s);
  return load / (1 - load);
}

}  // namespace

Router::Router(const PlanRequest& request) : request_(request), node_count_(request.network.size()) {
  const auto bytes = static_cast<double>(request.workload.activation_bytes);
  for (int from = 0; from < node_count_; ++from)
    for (int to = 0; to < node_count_; ++to) {
      round_trip_s_.push_back(request.network.link(from, to).transfer_s(bytes) +
                              request.network.link(to, from).transfer_s(bytes));
      occupied_s_.push_back(request.network.link(from, to).occupied_s(bytes));
    }
}

void Router::measure(const Candidate& candidate, double iteration_s, double crowding) {
  iteration_s_ = iteration_s;
  crowding_ = crowding;
  stage_of_.assign(request_.network.nodes.size(), -1);
  work_s_.assign(request_.network.nodes.size(), 0);
  slots_.assign(request_.network.nodes.size(), 1);
  for (size_t stage = 0; stage < candidate.stages.size(); ++stage)
    for (const int node : candidate.stages[stage]) {
      const TaskSeconds seconds = task_seconds(request_, node, stage);
      stage_of_[static_cast<size_t>(node)] = static_cast<int>(stage);
      slots_[static_cast<size_t>(node)] = std::max(1, slots_in_stage(request_, node, static_cast<int>(stage)));
      work_s_[static_cast<size_t>(node)] = seconds.forward_s + seconds.backward_s + (stage == 0 ? seconds.loss_s : 0);
    }
  node_s_.assign(request_.network.nodes.size(), 0);
  slot_s_.assign(request_.network.nodes.size(), 0);
  link_s_.assign(round_trip_s_.size(), 0);
  for (int m = 0; m < candidate.microbatches(); ++m) add(candidate.path(m), 1);
}

void Router::add(std::span<const int> path, double sign) {
  // From the last visit back: what follows a visit's forward pass until its backward pass has ended.
  const size_t last = path.size() - 1;
  double hold_s = work_s(path[0]);
  if (last > 0) hold_s += round_trip_s_[link(path[last], path[0])];
  hold_s_.resize(path.size());
  for (size_t i = path.size(); i-- > 0;) {
    const auto node = static_cast<size_t>(path[i]);
    hold_s += i > 0 ? work_s_[node] : 0;
    hold_s_[i] = hold_s;
    node_s_[node] += sign * work_s_[node];
    slot_s_[node] += sign * hold_s;
    if (i > 0) hold_s += round_trip_s_[link(path[i - 1], path[i])];
    const int next = path[i == last ? 0 : i + 1];
    if (last == 0) continue;
    link_s_[link(path[i], next)] += sign * occupied_s_[link(path[i], next)];
    link_s_[link(next, path[i])] += sign * occupied_s_[link(next, path[i])];
  }
}

double Router::visit_cost(int node, double hold_s) const {
  const auto n = static_cast<size_t>(node);
  const double slots = slots_[n];
  return work_s_[n] + crowding_ * (work_s_[n] * waiting(node_s_[n], iteration_s_) +
                                   hold_s * waiting(slot_s_[n], iteration_s_ * slots) / slots);
}

double Router::hop_cost(int from, int to) const {
  const size_t there = link(from, to), back = link(to, from);
  return round_trip_s_[there] + crowding_ * (occupied_s_[there] * waiting(link_s_[there], iteration_s_) +
                                             occupied_s_[back] * waiting(link_s_[back], iteration_s_));
}

// Viterbi: the cheapest way to each replica of a stage, from those to the replicas of the stage before.
void Router::reroute(const Candidate& candidate, std::span<int> path) {
  add(path, -1);
  const size_t length = path.size();
  costs_.resize(std::max(costs_.size(), length));
  previous_.resize(costs_.size());
  const int data_node = path[0];
  const auto replicas = [&](size_t i) -> const std::vector<int>& {
    return candidate.stages[static_cast<size_t>(stage_of_[static_cast<size_t>(path[i])])];
  };
  for (size_t i = 1; i < length; ++i) {
    const std::vector<int>& nodes = replicas(i);
    costs_[i].assign(nodes.size(), 0);
    previous_[i].assign(nodes.size(), 0);
    for (size_t r = 0; r < nodes.size(); ++r) {
      double best = 0;
      if (i == 1) {
        best = hop_cost(data_node, nodes[r]);
      } else {
        const std::vector<int>& before = replicas(i - 1);
        for (size_t b = 0; b < before.size(); ++b) {
          const double cost = costs_[i - 1][b] + hop_cost(before[b], nodes[r]);
          if (b > 0 && cost >= best) continue;
          best = cost;
          previous_[i][r] = static_cast<int>(b);
        }
      }
      costs_[i][r] = best + visit_cost(nodes[r], hold_s_[i]);
      if (i + 1 == length) costs_[i][r] += hop_cost(nodes[r], data_node);
    }
  }
  if (length > 1) {
    auto r = static_cast<size_t>(std::ranges::min_element(costs_[length - 1]) - costs_[length - 1].begin());
    for (size_t i = length - 1; i > 0; --i) {
      const int node = replicas(i)[r];
      r = static_cast<size_t>(previous_[i][r]);
      path[i] = node;
    }
  }
  add(path, 1);
}

}  // namespace skippipe
