#include "schedule/search/lower_bound.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <queue>

#include "schedule/search/bound_costs.h"
#include "schedule/search/capacity.h"
#include "schedule/search/path_graph.h"
#include "schedule/search/paths.h"
#include "schedule/search/planning.h"
#include "schedule/search/slot_prices.h"

namespace skippipe {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// The simulator adds the same numbers in another order.
constexpr double kRounding = 1 - 1e-12;
// Steps of the search for shortest ways, in pairs of nodes.
constexpr double kMaxPairs = 1e9;  // of one search: beyond, the looser bound
constexpr int kMostPricedNodes = 256;
constexpr double kGroupPairs = 5e7;  // of the searches from each data node: beyond, data nodes share a search

using Costs = std::vector<double>;  // of the nodes of one stage
using Stages = std::vector<std::vector<int>>;

// Visits that each stage behind the first serves at least and at most, and all of them together.
struct Exposure {
  int64_t least = 0, most = 0, all = 0;
};

Exposure exposure_of(const PlanRequest& request, int length) {
  const int64_t all = int64_t{request.microbatches} * (length - 1);
  const int64_t others = request.stage_count() - 1;
  if (others < 1) return {};
  if (!request.rules.equal_exposure) return {.least = 1, .most = request.microbatches, .all = all};
  return {.least = all / others, .most = (all + others - 1) / others, .all = all};
}

// What must follow a node's last backward pass: sum of gradients, norms, steps.
class Endings {
 public:
  Endings(const PlanRequest& request, const Stages& stages) : request_(request), stages_(stages), cost_(request) {}

  // Of the nodes of a stage, to the end of the iteration.
  Costs of_stage(size_t s) const {
    const std::vector<int>& nodes = stages_[s];
    const double shard_bytes =
        static_cast<double>(request_.workload.stage_gradient_bytes[s]) / static_cast<double>(nodes.size());
    Costs after;  // a node's gradients are summed
    for (const int node : nodes) after.push_back(after_sum(node, s));
    if (shard_bytes == 0 || nodes.size() == 1)
      return Costs(nodes.size(), *std::max_element(after.begin(), after.end()));
    Costs spread = after;  // from when a node has summed its shard
    for (size_t v = 0; v < nodes.size(); ++v)
      for (size_t w = 0; w < nodes.size(); ++w)
        if (v != w) spread[v] = std::max(spread[v], cost_.message_s(nodes[v], nodes[w], shard_bytes) + after[w]);
    Costs ending(nodes.size(), 0);
    for (size_t u = 0; u < nodes.size(); ++u) ending[u] = after_backward(nodes, u, shard_bytes, spread);
    return ending;
  }

 private:
  // A node that is last sends every other its shard, and each sends the sum of its own to all.
  double after_backward(const std::vector<int>& nodes, size_t u, double shard_bytes, const Costs& spread) const {
    double last_s = 0, quickest_s = kInfinity;
    for (size_t v = 0; v < nodes.size(); ++v) {
      if (v == u) continue;
      last_s = std::max(last_s, cost_.message_s(nodes[u], nodes[v], shard_bytes) + spread[v]);
      quickest_s = std::min(quickest_s, cost_.fixed_s(nodes[u], nodes[v]) + spread[v]);
    }
    const double shards_bytes = shard_bytes * static_cast<double>(nodes.size() - 1);
    return std::max(last_s, cost_.uplink_s(nodes[u], shards_bytes) + quickest_s);
  }

  double after_sum(int node, size_t stage) const {
    double last_s = cost_.step_s(node, stage);
    if (!request_.workload.exchange_norm) return last_s;
    for (size_t s = 0; s < stages_.size(); ++s)
      for (const int other : stages_[s])
        if (other != node)
          last_s = std::max(last_s, cost_.message_s(node, other, kNormMessageBytes) + cost_.step_s(other, s));
    return last_s;
  }

  const PlanRequest& request_;
  const Stages& stages_;
  const BoundCosts cost_;
};

// Shortest ways along legal paths between the nodes of given stages.
class Ways {
 public:
  Ways(const PathGraph& graph, const Stages& stages) : graph_(graph), stages_(stages) {
    for (const std::vector<int>& stage : stages) {
      offsets_.push_back(nodes_.size());
      nodes_.insert(nodes_.end(), stage.begin(), stage.end());
    }
  }

  // Pairs of nodes that one search looks at.
  double pairs() const {
    double sum = 0;
    for (int layer = 0; layer + 1 < graph_.layers(); ++layer)
      for_valid_edges(layer, [&](int from, int to) { sum += static_cast<double>(size_of(from) * size_of(to)); });
    return sum;
  }

  // The same paths, as visits behind the data node's.
  void describe(SlotPrices::Trips& trips, const BoundCosts& cost) const {
    for (int state = 0; state < graph_.states(); ++state) {
      trips.places.emplace_back();
      for (const int node : stages_[stage_of(state)])
        trips.places.back().push_back(
            {.node = node, .stage = static_cast<int>(stage_of(state)), .work_s = cost.work_s(node, stage_of(state))});
    }
    for_valid_edges(0, [&](int, int to) { trips.first.push_back(to); });
    for (int layer = 1; layer + 1 < graph_.layers(); ++layer) {
      trips.further.emplace_back();
      for_valid_edges(layer, [&](int from, int to) { trips.further.back().push_back({from, to}); });
    }
  }

  // For each node of each stage: the least that a path takes from its data node up to and with a visit there, where it
  // begins with first[d], takes hop(u, v) from u to v, and visits[stage][i] with each visit.
  template <typename Hop>
  std::vector<Costs> from_start(const Costs& first, const std::vector<Costs>& visits, const Hop& hop) const {
    const Costs hops = table(hop);
    std::vector<Costs> best = unknown();
    std::vector<Costs> now = blank(), next = blank();
    now[0] = best[0] = first;
    for (int layer = 0; layer + 1 < graph_.layers(); ++layer) {
      clear(next);
      for_valid_edges(layer, [&](int from, int to) { relax(next, to, now, from, hops); });
      for (int state = 0; state < graph_.states(); ++state) add(next[index(state)], visits[stage_of(state)]);
      now.swap(next);
      keep_best(best, now);
    }
    return best;
  }

  // For each node of each stage: the least from right behind a visit there to a path's end, where the last visit is
  // followed by last[stage][i]; hop(u, v) is the same both ways.
  template <typename Hop>
  std::vector<Costs> to_end(const std::vector<Costs>& last, const std::vector<Costs>& visits, const Hop& hop) const {
    const Costs hops = table(hop);
    std::vector<Costs> best = unknown();
    std::vector<Costs> now = blank(), next = blank();
    for (int state = 0; state < graph_.states(); ++state)
      if (graph_.valid(graph_.layers() - 1, state)) now[index(state)] = last[stage_of(state)];
    keep_best(best, now);
    for (int layer = graph_.layers() - 2; layer >= 0; --layer) {
      clear(next);
      for (int state = 0; state < graph_.states(); ++state) add(now[index(state)], visits[stage_of(state)]);
      for_valid_edges(layer, [&](int from, int to) { relax(next, from, now, to, hops); });
      now.swap(next);
      keep_best(best, now);
    }
    return best;
  }

 private:
  static size_t index(int state) { return static_cast<size_t>(state); }
  size_t stage_of(int state) const { return index(graph_.stage(state)); }
  size_t size_of(int state) const { return stages_[stage_of(state)].size(); }

  template <typename Function>
  void for_valid_edges(int layer, const Function& function) const {
    for (const PathGraph::Edge& edge : graph_.edges())
      if (graph_.valid(layer, edge.from) && graph_.valid(layer + 1, edge.to)) function(edge.from, edge.to);
  }

  // hop of all pairs, nodes in the order of stages.
  template <typename Hop>
  Costs table(const Hop& hop) const {
    Costs hops;
    hops.reserve(nodes_.size() * nodes_.size());
    for (const int u : nodes_)
      for (const int v : nodes_) hops.push_back(u == v ? 0 : hop(u, v));
    return hops;
  }

  void relax(std::vector<Costs>& result, int to, const std::vector<Costs>& known, int from, const Costs& hops) const {
    Costs& out = result[index(to)];
    const Costs& in = known[index(from)];
    for (size_t u = 0; u < in.size(); ++u) {
      if (in[u] == kInfinity) continue;
      const double* row = &hops[(offsets_[stage_of(from)] + u) * nodes_.size() + offsets_[stage_of(to)]];
      for (size_t v = 0; v < out.size(); ++v) out[v] = std::min(out[v], in[u] + row[v]);
    }
  }

  static void add(Costs& costs, const Costs& more) {
    for (size_t i = 0; i < costs.size(); ++i) costs[i] += more[i];
  }

  void keep_best(std::vector<Costs>& best, const std::vector<Costs>& now) const {
    for (int state = 0; state < graph_.states(); ++state) {
      Costs& of_stage = best[stage_of(state)];
      for (size_t u = 0; u < of_stage.size(); ++u) of_stage[u] = std::min(of_stage[u], now[index(state)][u]);
    }
  }

  std::vector<Costs> unknown() const {
    std::vector<Costs> costs;
    for (const std::vector<int>& stage : stages_) costs.emplace_back(stage.size(), kInfinity);
    return costs;
  }
  std::vector<Costs> blank() const {
    std::vector<Costs> costs;
    for (int state = 0; state < graph_.states(); ++state) costs.emplace_back(size_of(state), kInfinity);
    return costs;
  }
  static void clear(std::vector<Costs>& costs) {
    for (Costs& of_state : costs) std::fill(of_state.begin(), of_state.end(), kInfinity);
  }

  const PathGraph& graph_;
  const Stages& stages_;
  std::vector<int> nodes_;       // stage after stage
  std::vector<size_t> offsets_;  // of each stage in nodes_
};

enum class Limit : uint8_t { kSlots, kWork, kUplink };

// One node: when it can have served m visits at the earliest, and the iteration ended.
struct Server {
  int node = 0;
  double head_s = 0;    // no work before
  double tail_s = 0;    // after its last backward pass
  double work_s = 0;    // of a visit
  double held_s = 0;    // a slot, by a visit
  double uplink_s = 0;  // of a visit's messages
  double uplink_tail_s = 0;
  double staggered_s = 0;  // SlotPrices::Supply
  int slots = 0;

  SlotPrices::Supply supply() const {
    return {.slots = slots, .head_s = head_s, .tail_s = tail_s, .staggered_s = staggered_s};
  }
  std::pair<double, Limit> served(int64_t visits) const {
    const auto m = static_cast<double>(visits);
    const double rounds = std::ceil(m / slots);
    const double slots_s = std::max(rounds * held_s, supply().window_s(m * held_s));
    std::pair result(head_s + slots_s + tail_s, Limit::kSlots);
    if (const double s = head_s + m * work_s + tail_s; s > result.first) result = {s, Limit::kWork};
    if (const double s = head_s + m * uplink_s + uplink_tail_s; s > result.first) result = {s, Limit::kUplink};
    return result;
  }
};

struct Served {
  double seconds = 0;
  Limit limit = Limit::kWork;
  Server server = {};  // who is last
  int64_t visits = 0;  // that it then has served
};

// Of a data node, at most, where `count` of them share the microbatches.
int64_t most_started(const PlanRequest& request, size_t count) {
  return request.rules.equal_data ? divide_up(request.microbatches, static_cast<int>(count)) : request.microbatches;
}

// The earliest that the groups can have served `visits`, each group at most `most`, and each server at most
// `most_each`.
Served serve(const std::vector<const std::vector<Server>*>& groups, int64_t visits, int64_t most, int64_t most_each) {
  struct Next {
    double seconds;
    size_t group, server;
    int64_t visits;
    bool operator<(const Next& other) const { return seconds > other.seconds; }
  };
  std::priority_queue<Next> queue;
  for (size_t g = 0; g < groups.size(); ++g)
    for (size_t i = 0; i < groups[g]->size(); ++i)
      if ((*groups[g])[i].slots > 0) queue.push({(*groups[g])[i].served(1).first, g, i, 1});
  std::vector<int64_t> served(groups.size(), 0);
  Served result;
  while (visits > 0 && !queue.empty() && queue.top().seconds < kInfinity) {
    const Next next = queue.top();
    queue.pop();
    if (served[next.group] == most || next.visits > most_each) continue;
    ++served[next.group];
    --visits;
    const Server& server = (*groups[next.group])[next.server];
    const auto [seconds, limit] = server.served(next.visits);
    result = {seconds, limit, server, next.visits};
    queue.push({server.served(next.visits + 1).first, next.group, next.server, next.visits + 1});
  }
  if (visits > 0) result.seconds = kInfinity;
  return result;
}

LowerBound higher(const LowerBound& a, const LowerBound& b) { return b.seconds > a.seconds ? b : a; }

// Where visits follow the data node's, and nodes are few enough for prices to be found.
bool has_slot_prices(const PlanRequest& request, int length) {
  return length > 1 && request.network.size() <= kMostPricedNodes;
}

LowerBound slot_prices_bound(const PlanRequest& request, double seconds) {
  return {.seconds = seconds,
          .what = fmt::format("slots of all nodes together: {} microbatches and their visits ask for more seconds than "
                              "those near to each other have",
                              request.microbatches)};
}

class GivenStages {
 public:
  GivenStages(const PlanRequest& request, const Stages& stages, const PathGraph& graph)
      : request_(request), stages_(stages), length_(graph.layers()), cost_(request), ways_(graph, stages) {}

  double pairs() const { return ways_.pairs(); }

  LowerBound bound() {
    make_servers();
    const Exposure exposure = exposure_of(request_, length_);
    LowerBound best = {.what = "nothing takes time"};
    std::vector<const std::vector<Server>*> others;
    for (size_t s = 0; s < stages_.size(); ++s) {
      const int64_t visits = s == 0 ? request_.microbatches : exposure.least;
      const int64_t most_each = s == 0 ? most_started(request_, stages_[0].size()) : visits;
      improve(best, serve({&servers_[s]}, visits, visits, most_each), describe_stage(s, visits));
      if (s > 0) others.push_back(&servers_[s]);
    }
    improve(best, serve(others, exposure.all, exposure.most, exposure.most),
            fmt::format("all stages but the first: {} visits", exposure.all));
    best.seconds *= kRounding;
    if (has_slot_prices(request_, length_))
      best = higher(best, slot_prices_bound(request_, SlotPrices(cost_, slot_problem(exposure)).floor_s()));
    return best;
  }

 private:
  void make_servers() {
    const Endings endings(request_, stages_);
    std::vector<Costs> ending;
    for (size_t s = 0; s < stages_.size(); ++s) ending.push_back(endings.of_stage(s));
    const std::vector<Costs> head = heads();
    const std::vector<Costs> tail = tails(ending[0]);
    const std::vector<Costs> held = holds();
    const double last_s = *std::min_element(tail[0].begin(), tail[0].end());
    for (size_t s = 0; s < stages_.size(); ++s) {
      servers_.emplace_back();
      for (size_t i = 0; i < stages_[s].size(); ++i) {
        const int node = stages_[s][i];
        Server server = {.node = node,
                         .head_s = head[s][i] - cost_.forward_s(node, s),
                         .tail_s = std::max(ending[s][i], tail[s][i] - cost_.backward_s(node, s)),
                         .work_s = cost_.work_s(node, s) + (s == 0 ? cost_.loss_s(node) : 0),
                         .held_s = cost_.work_s(node, s) + held[s][i],
                         .staggered_s = cost_.work_s(node, s),
                         .slots = slots_in_stage(request_, node, static_cast<int>(s))};
        if (length_ > 1) server.uplink_s = cost_.uplink_s(node, 2 * cost_.activation_bytes());
        server.uplink_tail_s = s == 0 ? after_loss_gradient(node) + tail[0][i] : last_s;
        servers_.back().push_back(server);
      }
    }
  }

  SlotPrices::Problem slot_problem(const Exposure& exposure) const {
    SlotPrices::Problem problem = {.nodes = request_.network.size(),
                                   .microbatches = request_.microbatches,
                                   .data_node_count = static_cast<int>(stages_[0].size()),
                                   .most_each = most_started(request_, stages_[0].size()),
                                   .others = std::vector<SlotPrices::Supply>(request_.network.nodes.size()),
                                   .trips = {.visits = length_ - 1, .places = {}, .first = {}, .further = {}},
                                   .fewest_visits = std::vector<int64_t>(stages_.size(), exposure.least),
                                   .most_visits = std::vector<int64_t>(stages_.size(), exposure.most)};
    problem.fewest_visits[0] = problem.most_visits[0] = 0;  // of trips
    for (size_t s = 0; s < stages_.size(); ++s)
      for (const Server& server : servers_[s]) {
        if (s > 0)
          problem.others[static_cast<size_t>(server.node)] = server.supply();
        else
          problem.data_nodes.push_back({.node = server.node,
                                        .work_s = cost_.work_s(server.node, 0),
                                        .loss_s = cost_.loss_s(server.node),
                                        .supply = server.supply()});
      }
    ways_.describe(problem.trips, cost_);
    return problem;
  }

  // One figure for each node of each stage.
  template <typename Function>
  std::vector<Costs> each(const Function& function) const {
    std::vector<Costs> costs;
    for (size_t s = 0; s < stages_.size(); ++s) {
      costs.emplace_back();
      for (const int node : stages_[s]) costs.back().push_back(function(node, s));
    }
    return costs;
  }

  // Up to and with a node's first forward pass.
  std::vector<Costs> heads() const {
    const std::vector<Costs> forward = each([&](int node, size_t stage) { return cost_.forward_s(node, stage); });
    return ways_.from_start(forward[0], forward, [&](int u, int v) { return cost_.hop_s(u, v); });
  }

  // From the start of a node's last backward pass, over the data node's, to the end.
  std::vector<Costs> tails(const Costs& ending) const {
    const std::vector<Costs> backward = each([&](int node, size_t stage) { return cost_.backward_s(node, stage); });
    Costs first = backward[0];
    for (size_t i = 0; i < first.size(); ++i) first[i] += ending[i];
    return ways_.from_start(first, backward, [&](int u, int v) { return cost_.hop_s(v, u); });
  }

  // From the end of a node's forward pass to the start of its backward pass. The data nodes of a group share a search,
  // in which a path may return to any of them.
  std::vector<Costs> holds() const {
    std::vector<Costs> held = each([](int, size_t) { return kInfinity; });
    for (const std::vector<size_t>& group : groups()) {
      const std::vector<Costs> found = holds_of(group);
      for (const size_t i : group) held[0][i] = found[0][i];
      for (size_t s = 1; s < held.size(); ++s)
        for (size_t i = 0; i < held[s].size(); ++i) held[s][i] = std::min(held[s][i], found[s][i]);
    }
    return held;
  }

  // Data nodes, by place in stage 0: each alone where there is time for so many searches, else with others of its
  // region.
  std::vector<std::vector<size_t>> groups() const {
    std::vector<size_t> order(stages_[0].size());
    std::iota(order.begin(), order.end(), size_t{0});
    const auto region = [&](size_t i) -> const std::string& {
      return request_.network.nodes[static_cast<size_t>(stages_[0][i])].region;
    };
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return region(a) < region(b); });
    const double searches = std::max(1.0, kGroupPairs / std::max(1.0, ways_.pairs()));
    std::vector<std::vector<size_t>> result;
    auto next = order.begin();
    for (const int size : split_evenly(static_cast<int>(order.size()),
                                       static_cast<int>(std::min(searches, static_cast<double>(order.size()))))) {
      result.emplace_back(next, next + size);
      next += size;
    }
    return result;
  }

  std::vector<Costs> holds_of(const std::vector<size_t>& data_nodes) const {
    if (length_ == 1) return each([&](int node, size_t stage) { return stage == 0 ? cost_.loss_s(node) : kInfinity; });
    const auto back = [&](int u, size_t) {
      double least_s = kInfinity;
      for (const size_t i : data_nodes)
        least_s = std::min(least_s, cost_.both_ways_s(u, stages_[0][i]) + cost_.loss_s(stages_[0][i]));
      return least_s;
    };
    return ways_.to_end(each(back), each([&](int node, size_t stage) { return cost_.work_s(node, stage); }),
                        [&](int u, int v) { return cost_.both_ways_s(u, v); });
  }

  // From when a data node's uplink is free of a loss gradient to the start of the data node's backward pass.
  double after_loss_gradient(int node) const {
    double least_s = kInfinity;
    for (size_t s = 1; s < stages_.size(); ++s)
      for (const int last : stages_[s])
        least_s = std::min(least_s, cost_.fixed_s(node, last) + cost_.backward_s(last, s) + cost_.hop_s(last, node));
    return length_ > 1 ? least_s : 0;
  }

  std::string describe_stage(size_t stage, int64_t visits) const {
    int64_t slots = 0;
    for (const Server& server : servers_[stage]) slots += server.slots;
    return fmt::format("{}: {} {} on {} node{} with {} slots",
                       stage == 0 ? std::string("data nodes") : fmt::format("stage {}", stage), visits,
                       stage == 0 ? "microbatches" : "visits", stages_[stage].size(),
                       stages_[stage].size() == 1 ? "" : "s", slots);
  }

  void improve(LowerBound& best, const Served& found, const std::string& who) const {
    if (found.seconds <= best.seconds) return;
    best.seconds = found.seconds;
    best.what = who + ", which can't serve them";
    if (found.seconds == kInfinity) return;
    const Server& server = found.server;
    const std::string& name = request_.network.nodes[static_cast<size_t>(server.node)].name;
    if (found.limit == Limit::kSlots)
      best.what = fmt::format("{}, of which '{}' takes {} in rounds of at least {:.4g} s", who, name, found.visits,
                              server.held_s);
    else
      best.what = fmt::format("{}, of which '{}' takes {}, {:.4g} s of its {} each", who, name, found.visits,
                              found.limit == Limit::kWork ? server.work_s : server.uplink_s,
                              found.limit == Limit::kWork ? "time" : "uplink");
  }

  const PlanRequest& request_;
  const Stages& stages_;
  const int length_;
  const BoundCosts cost_;
  const Ways ways_;
  std::vector<std::vector<Server>> servers_;
};

// Wherever the nodes go: what is known of each node without its stage.
class AnyStages {
 public:
  AnyStages(const PlanRequest& request, int length) : request_(request), length_(length), cost_(request) {}

  LowerBound quick_bound() const {
    LowerBound best = higher(work_bound(), slots_bound());
    best.seconds *= kRounding;
    return best;
  }
  LowerBound bound() const {
    if (!has_slot_prices(request_, length_)) return quick_bound();
    return higher(quick_bound(), slot_prices_bound(request_, SlotPrices(cost_, slot_problem()).floor_s()));
  }

 private:
  // Forward and backward of one layer.
  double layer_s(int node) const {
    const NetworkNode& found = request_.network.nodes[static_cast<size_t>(node)];
    return found.forward_s * (1 + found.backward_over_forward) * request_.workload.samples;
  }

  // The fewest layers that the visits of `count` stages other than the first have, least first.
  std::vector<int> fewest_layers() const {
    std::vector<int> layers(request_.workload.stage_layers.begin() + 1, request_.workload.stage_layers.end());
    std::sort(layers.begin(), layers.end());
    layers.resize(static_cast<size_t>(length_ - 1));
    return layers;
  }

  // Layers that all microbatches pass: C4 gives each stage its share.
  double all_layers() const {
    const auto microbatches = static_cast<double>(request_.microbatches);
    const std::vector<int>& layers = request_.workload.stage_layers;
    double sum = microbatches * layers[0];
    if (!request_.rules.equal_exposure) {
      for (const int count : fewest_layers()) sum += microbatches * count;
      return sum;
    }
    const auto least = static_cast<double>(exposure_of(request_, length_).least);
    for (size_t s = 1; s < layers.size(); ++s) sum += least * layers[s];
    return sum;
  }

  LowerBound work_bound() const {
    double rate = 0;
    for (int node = 0; node < request_.network.size(); ++node) rate += 1 / layer_s(node);
    const double layers = all_layers();
    return {.seconds = layers / rate,
            .what = fmt::format("all nodes: {:.6g} layers of microbatches at {:.4g} a second", layers, rate)};
  }

  // Half of a node's two quickest round trips of messages: a cycle through it has two. A path of two visits goes one
  // way and back.
  double half_hops_s(int node) const {
    double quickest = kInfinity, second = kInfinity;
    for (int other = 0; other < request_.network.size(); ++other) {
      if (other == node) continue;
      const double s = cost_.both_ways_s(node, other);
      second = std::min(second, std::max(s, quickest));
      quickest = std::min(quickest, s);
    }
    return length_ == 2 ? quickest : (quickest + second) / 2;
  }

  // The least that a microbatch spends away from its data node, but for the data node's half of messages.
  double away_s(const Costs& half_hops) const {
    Costs layer, hops = half_hops;
    for (int node = 0; node < request_.network.size(); ++node) layer.push_back(layer_s(node));
    std::sort(layer.begin(), layer.end());
    std::sort(hops.begin(), hops.end());
    const std::vector<int> layers = fewest_layers();
    double sum = 0;
    for (size_t i = 0; i < layers.size(); ++i) sum += layers[layers.size() - 1 - i] * layer[i] + hops[i];
    return sum;
  }

  // The best data nodes, as many as there will be.
  LowerBound slots_bound() const {
    Costs half_hops(request_.network.nodes.size(), 0);
    double away = 0;
    if (length_ > 1) {
      for (int node = 0; node < request_.network.size(); ++node)
        half_hops[static_cast<size_t>(node)] = half_hops_s(node);
      away = away_s(half_hops);
    }
    std::vector<Server> servers;
    for (int node = 0; node < request_.network.size(); ++node) {
      const double own_s = cost_.work_s(node, 0) + cost_.loss_s(node);
      servers.push_back({.node = node,
                         .tail_s = cost_.step_s(node, 0),
                         .work_s = own_s,
                         .held_s = own_s + half_hops[static_cast<size_t>(node)] + away,
                         .staggered_s = cost_.work_s(node, 0),
                         .slots = slots_in_stage(request_, node, 0)});
    }
    const size_t count = data_nodes();
    const Served found = serve_by_best(servers, count);
    return {.seconds = found.seconds,
            .what = fmt::format("data nodes: {} microbatches on the best {} nodes, of which '{}' takes {}, each for at "
                                "least {:.4g} s in a slot",
                                request_.microbatches, count,
                                request_.network.nodes[static_cast<size_t>(found.server.node)].name, found.visits,
                                found.server.held_s)};
  }

  // Any node may be a data node, and a path goes from any to any other.
  SlotPrices::Problem slot_problem() const {
    const int nodes = request_.network.size();
    const bool sized = !request_.nodes_per_stage.empty();
    SlotPrices::Problem problem = {.nodes = nodes,
                                   .microbatches = request_.microbatches,
                                   .data_node_count = static_cast<int>(data_nodes()),
                                   .most_each = sized ? most_started(request_, data_nodes()) : request_.microbatches,
                                   .trips = {.visits = length_ - 1, .places = {{}}, .first = {0}, .further = {}}};
    problem.trips.further.assign(static_cast<size_t>(length_ - 2), {{0, 0}});
    const int layers = fewest_layers().front();
    double first_s = kInfinity, last_s = kInfinity;  // of data nodes: what comes before and behind all others' work
    for (int node = 0; node < nodes; ++node) {
      first_s = std::min(first_s, cost_.forward_s(node, 0));
      last_s = std::min(last_s, cost_.backward_s(node, 0) + cost_.step_s(node, 0));
    }
    for (int node = 0; node < nodes; ++node) {
      if (const int slots = slots_in_stage(request_, node, 0); slots > 0)
        problem.data_nodes.push_back(
            {.node = node,
             .work_s = cost_.work_s(node, 0),
             .loss_s = cost_.loss_s(node),
             .supply = {.slots = slots, .tail_s = cost_.step_s(node, 0), .staggered_s = cost_.work_s(node, 0)}});
      double there_s = kInfinity, back_s = kInfinity;
      for (int other = 0; other < nodes; ++other) {
        if (other == node) continue;
        there_s = std::min(there_s, cost_.hop_s(other, node));
        back_s = std::min(back_s, cost_.hop_s(node, other));
      }
      int slots = 0;
      for (int stage = 1; stage < request_.stage_count(); ++stage)
        slots = std::max(slots, slots_in_stage(request_, node, stage));
      const double work_s = layers * layer_s(node);
      problem.others.push_back(
          {.slots = slots, .head_s = first_s + there_s, .tail_s = back_s + last_s, .staggered_s = work_s});
      if (slots > 0) problem.trips.places[0].push_back({.node = node, .stage = 1, .work_s = work_s});
    }
    return problem;
  }

  // At most: planners may give stages other sizes where the request says none.
  size_t data_nodes() const {
    return static_cast<size_t>(request_.nodes_per_stage.empty() ? request_.network.size() - request_.stage_count() + 1
                                                                : request_.nodes_per_stage.front());
  }

  // The earliest that any `count` of the servers can have served all microbatches: every time at which some server ends
  // a visit is tried, by bisection, with those that have served most by then.
  Served serve_by_best(const std::vector<Server>& servers, size_t count) const {
    const auto enough = [&](double seconds) {
      std::vector<int64_t> served;
      for (const Server& server : servers) served.push_back(visits_by(server, seconds));
      std::sort(served.rbegin(), served.rend());
      return std::accumulate(served.begin(),
                             served.begin() + static_cast<std::ptrdiff_t>(std::min(count, served.size())),
                             int64_t{0}) >= request_.microbatches;
    };
    double low = 0, high = kInfinity;
    for (const Server& server : servers)
      if (server.slots > 0) high = std::min(high, server.served(request_.microbatches).first);
    if (high == kInfinity) return {.seconds = kInfinity};
    for (int i = 0; i < 60 && low < high * (1 - 1e-13); ++i) {
      const double middle = (low + high) / 2;
      (enough(middle) ? high : low) = middle;
    }
    Served result = {.seconds = low};
    for (const Server& server : servers) {
      const int64_t visits = visits_by(server, high);
      if (visits > result.visits) result = {low, Limit::kSlots, server, visits};
    }
    return result;
  }

  int64_t visits_by(const Server& server, double seconds) const {
    if (server.slots == 0) return 0;
    int64_t low = 0, high = request_.microbatches;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (server.served(middle).first <= seconds)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }

  const PlanRequest& request_;
  const int length_;
  const BoundCosts cost_;
};

LowerBound no_plan(std::string what) { return {.seconds = kInfinity, .what = std::move(what)}; }

// Why paths of this length can't be; empty: they can.
std::string length_problem(const PlanRequest& request, int length) {
  if (length < 1) return "paths of no stage";
  if (length < shortest_path_length(request.stage_count(), request.microbatches)) return "paths that leave a stage out";
  return {};
}

std::string any_stages_problem(const PlanRequest& request) {
  if (request.stage_count() > request.network.size()) return "more stages than nodes";
  return length_problem(request, path_length(request));
}

}  // namespace

LowerBound lower_bound(const PlanRequest& request, const std::vector<std::vector<int>>& stages) {
  const int length = path_length(request);
  if (const std::string problem = length_problem(request, length); !problem.empty()) return no_plan(problem);
  const PathGraph graph(request.stage_count(), length, request.rules);
  if (!graph.has_path()) return no_plan(fmt::format("no path of {} stages in an order that the rules allow", length));
  GivenStages given(request, stages, graph);
  return given.pairs() <= kMaxPairs ? given.bound() : AnyStages(request, length).bound();
}

LowerBound lower_bound(const PlanRequest& request) {
  if (!request.stages.empty()) return lower_bound(request, request.stages);
  const std::string problem = any_stages_problem(request);
  return problem.empty() ? AnyStages(request, path_length(request)).bound() : no_plan(problem);
}

LowerBound quick_lower_bound(const PlanRequest& request) {
  const std::string problem = any_stages_problem(request);
  return problem.empty() ? AnyStages(request, path_length(request)).quick_bound() : no_plan(problem);
}

}  // namespace skippipe
