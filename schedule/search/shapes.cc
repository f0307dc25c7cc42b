#include "schedule/search/shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/stage_memory.h"
#include "schedule/search/path_graph.h"
#include "schedule/search/planning.h"

namespace skippipe {
namespace {

constexpr int kMaxStages = 1024;  // as the program's options
// Numbers of stages are tried one by one up to this, then each about an eighth further.
constexpr int kAllStagesUpTo = 16;
constexpr int kStepShare = 8;
// Nodes stand out that are worse than the next better one by this factor; at most so many groups by each measure.
constexpr double kOutstanding = 1.4;
constexpr size_t kMostGroups = 2;
// Of a layer on a node whose speed is not known.
constexpr double kLeastSeconds = 1e-12;
constexpr int64_t kUnbounded = std::numeric_limits<int64_t>::max();

// A request of so many stages and data nodes: no more than what says how long its paths are.
PlanRequest request_of(const ShapeRequest& request, int stages, int data_nodes) {
  PlanRequest plan;
  plan.rules = request.plan.rules;
  plan.workload.stage_layers.assign(static_cast<size_t>(stages), 1);
  plan.microbatches = request.microbatches_of(data_nodes);
  if (request.may_skip_less) skip_less_if_needed(plan);
  return plan;
}

// Of a microbatch to a stage behind the first, in the mean.
double mean_visits(const PlanRequest& request) {
  return static_cast<double>(path_length(request) - 1) / (request.stage_count() - 1);
}

// What a stage has to do for a microbatch, mean over those that skip it, shared by its nodes.
struct StageCost {
  double layer_s = 0;  // for each of its layers
  double fixed_s = 0;  // whatever they are
  int64_t most_layers = kUnbounded;

  double seconds(int layers) const { return layer_s * layers + fixed_s; }
};

class CostEstimate {
 public:
  explicit CostEstimate(const ShapeRequest& request) : request_(request) {
    if (!memory_is_known() || request.layers < 3) return;
    late_ = request.workload_of({1, request.layers - 1});
    early_ = request.workload_of({request.layers - 1, 1});
  }

  bool memory_is_known() const {
    return std::ranges::any_of(nodes(), [](const NetworkNode& node) { return node.memory_bytes > 0; });
  }

  // Each stage on the nodes given.
  std::vector<StageCost> of_stages(const std::vector<std::vector<int>>& stages) const {
    const auto count = static_cast<int>(stages.size()), data_nodes = static_cast<int>(stages[0].size());
    std::vector<StageCost> costs;
    for (size_t s = 0; s < stages.size(); ++s) costs.push_back(of_stage(stages[s], s, visits(count, data_nodes, s)));
    return costs;
  }

  // Each stage on so many nodes of mean speed and the least memory.
  std::vector<StageCost> of_counts(const std::vector<int>& counts) const {
    std::vector<int> all(nodes().size());
    std::iota(all.begin(), all.end(), 0);
    const auto stages = static_cast<int>(counts.size());
    std::vector<StageCost> costs;
    for (size_t s = 0; s < counts.size(); ++s) {
      const double more = static_cast<double>(all.size()) / counts[s];
      StageCost cost = of_stage(all, s, visits(stages, counts[0], s));
      cost.layer_s *= more;
      cost.fixed_s *= more;
      costs.push_back(cost);
    }
    return costs;
  }

  double layer_s(const NetworkNode& node, size_t stage) const {
    const double loss = stage == 0 && !node.loss_s ? node.loss_over_forward : 0;
    return std::max(kLeastSeconds, node.forward_s * (1 + node.backward_over_forward + loss));
  }

 private:
  const std::vector<NetworkNode>& nodes() const { return request_.plan.network.nodes; }

  // Of a microbatch to a stage, in the mean.
  double visits(int stages, int data_nodes, size_t stage) const {
    return stage == 0 ? 1 : mean_visits(request_of(request_, stages, data_nodes));
  }

  StageCost of_stage(const std::vector<int>& stage_nodes, size_t stage, double visits) const {
    StageCost cost;
    double rate = 0, loss_s = 0;
    for (const int index : stage_nodes) {
      const NetworkNode& node = nodes()[static_cast<size_t>(index)];
      rate += 1 / layer_s(node, stage);
      if (stage == 0) loss_s += node.loss_s.value_or(0);
      cost.most_layers = std::min(cost.most_layers, most_layers(node, stage));
    }
    const auto count = static_cast<double>(stage_nodes.size());
    cost.layer_s = visits / rate;
    cost.fixed_s = loss_s / count / count;
    return cost;
  }

  // What a stage with one slot takes is a linear function of its layers.
  int64_t most_layers(const NetworkNode& node, size_t stage) const {
    const size_t s = std::min<size_t>(stage, 1);
    const Workload& one_layer = s == 0 ? late_ : early_;
    const Workload& all_but_one = s == 0 ? early_ : late_;
    if (!memory_decides(node, one_layer)) return kUnbounded;
    const auto bytes = [&](const Workload& workload) {
      return static_cast<double>(state_bytes(node, workload, s) + workload.stage_slot_bytes[s]);
    };
    const double layer_bytes = (bytes(all_but_one) - bytes(one_layer)) / (request_.layers - 2);
    if (layer_bytes <= 0) return kUnbounded;
    const double left = static_cast<double>(room_bytes(node)) - (bytes(one_layer) - layer_bytes);
    return std::max<int64_t>(0, static_cast<int64_t>(left / layer_bytes));
  }

  const ShapeRequest& request_;
  Workload late_, early_;  // of two stages, the first with one layer and with all but one; empty: nothing is known
};

// One layer for each stage, then each for the stage that has least to do with it. Nothing: they do not fit.
std::optional<std::vector<int>> give_layers(int layers, const std::vector<StageCost>& costs) {
  std::vector<int> given(costs.size(), 1);
  for (const StageCost& cost : costs)
    if (cost.most_layers < 1) return std::nullopt;
  for (int left = layers - static_cast<int>(costs.size()); left > 0; --left) {
    size_t best = costs.size();
    for (size_t s = 0; s < costs.size(); ++s) {
      if (given[s] >= costs[s].most_layers) continue;
      if (best == costs.size() || costs[s].seconds(given[s] + 1) < costs[best].seconds(given[best] + 1)) best = s;
    }
    if (best == costs.size()) return std::nullopt;
    ++given[best];
  }
  return given;
}

// One node for each stage, then each for the stage that has most to do for its nodes; `costs` are of one node each.
std::vector<int> give_nodes(int nodes, const std::vector<int>& layers, const std::vector<StageCost>& costs) {
  std::vector<int> given(costs.size(), 1);
  const auto seconds = [&](size_t s) { return costs[s].seconds(layers[s]) / given[s]; };
  for (int left = nodes - static_cast<int>(costs.size()); left > 0; --left) {
    size_t best = 0;
    for (size_t s = 1; s < costs.size(); ++s)
      if (seconds(s) > seconds(best)) best = s;
    ++given[best];
  }
  return given;
}

// So many data nodes, at most one for each microbatch and one node left for each other stage; the rest evenly.
std::vector<int> counts_with(const ShapeRequest& request, int data_nodes, int stages) {
  const int nodes = request.plan.network.size();
  while (data_nodes > 1 && data_nodes > request.microbatches_of(data_nodes)) --data_nodes;
  data_nodes = stages == 1 ? nodes : std::min(data_nodes, nodes - stages + 1);
  std::vector<int> counts = {data_nodes};
  const std::vector<int> others = split_evenly(nodes - data_nodes, std::max(1, stages - 1));
  if (stages > 1) counts.insert(counts.end(), others.begin(), others.end());
  return counts;
}

std::vector<std::vector<int>> candidate_counts(const ShapeRequest& request, int stages, const CostEstimate& estimate) {
  const int nodes = request.plan.network.size();
  const std::vector<StageCost> each = estimate.of_counts(std::vector<int>(static_cast<size_t>(stages), 1));
  const int by_work = give_nodes(nodes, split_evenly(request.layers, stages), each).front();
  std::vector<std::vector<int>> result;
  for (const int data_nodes : {split_evenly(nodes, stages).front(), by_work, 2 * nodes / (stages + 1)})
    result.push_back(counts_with(request, std::max(1, data_nodes), stages));
  return result;
}

// The nodes in an order, cut into stages.
std::vector<std::vector<int>> cut(const std::vector<int>& order, const std::vector<int>& counts) {
  std::vector<std::vector<int>> stages;
  auto next = order.begin();
  for (const int count : counts) {
    stages.emplace_back(next, next + count);
    next += count;
  }
  return stages;
}

// The fastest nodes first; and where memory counts, those of most memory.
std::vector<std::vector<int>> node_orders(const ShapeRequest& request, const CostEstimate& estimate) {
  const std::vector<NetworkNode>& nodes = request.plan.network.nodes;
  std::vector<int> order(nodes.size());
  std::iota(order.begin(), order.end(), 0);
  const auto layer_s = [&](int node) { return estimate.layer_s(nodes[static_cast<size_t>(node)], 1); };
  const auto memory = [&](int node) {
    const NetworkNode& found = nodes[static_cast<size_t>(node)];
    return found.memory_bytes > 0 ? found.memory_bytes : kUnbounded;
  };
  std::ranges::stable_sort(order, {}, layer_s);
  std::vector<std::vector<int>> orders = {order};
  if (!estimate.memory_is_known()) return orders;
  std::ranges::stable_sort(order, std::greater{}, memory);
  orders.push_back(order);
  return orders;
}

std::vector<int> counts_of(const Plan& plan) {
  std::vector<int> counts;
  for (const std::vector<int>& stage : plan.stages) counts.push_back(static_cast<int>(stage.size()));
  return counts;
}

// Of a message there and one back.
double round_trip_s(const Network& network, int a, int b, double bytes) {
  return network.link(a, b).transfer_s(bytes) + network.link(b, a).transfer_s(bytes);
}

// By each measure what a node costs: seconds of a layer; the median, over the other nodes, of a message of activations
// there and back; and where slots follow from memory, how little there is of it.
std::vector<std::vector<double>> node_costs(const ShapeRequest& request) {
  const Network& network = request.plan.network;
  const CostEstimate estimate(request);
  const auto bytes = static_cast<double>(request.workload_of({request.layers}).activation_bytes);
  std::vector<double> seconds, delays, scarcities;
  for (int a = 0; a < network.size(); ++a) {
    const NetworkNode& node = network.nodes[static_cast<size_t>(a)];
    seconds.push_back(estimate.layer_s(node, 1));
    scarcities.push_back(node.slots_from_memory ? 1 / std::max(1.0, static_cast<double>(node.memory_bytes)) : 0);
    std::vector<double> round_trips;
    for (int b = 0; b < network.size(); ++b)
      if (a != b) round_trips.push_back(round_trip_s(network, a, b, bytes));
    const auto median = round_trips.begin() + std::ssize(round_trips) / 2;
    if (!round_trips.empty()) std::nth_element(round_trips.begin(), median, round_trips.end());
    delays.push_back(round_trips.empty() ? 0 : *median);
  }
  return {seconds, delays, scarcities};
}

// The nodes that cost less than the rest by far; those first that the largest gap sets apart.
std::vector<std::vector<int>> better_groups(std::vector<int> nodes, const std::vector<double>& cost) {
  const auto of = [&](int node) { return cost[static_cast<size_t>(node)]; };
  std::ranges::stable_sort(nodes, {}, of);
  std::vector<std::pair<double, size_t>> gaps;  // ratio, and how many nodes lie below
  for (size_t i = 1; i < nodes.size(); ++i)
    if (of(nodes[i - 1]) > 0 && of(nodes[i]) > kOutstanding * of(nodes[i - 1]))
      gaps.emplace_back(of(nodes[i]) / of(nodes[i - 1]), i);
  std::ranges::stable_sort(gaps, std::greater{}, &std::pair<double, size_t>::first);
  std::vector<std::vector<int>> groups;
  for (size_t i = 0; i < std::min(gaps.size(), kMostGroups); ++i)
    groups.emplace_back(nodes.begin(), nodes.begin() + static_cast<std::ptrdiff_t>(gaps[i].second));
  return groups;
}

}  // namespace

std::vector<std::vector<int>> node_choices(const ShapeRequest& request) {
  const int count = request.plan.network.size();
  std::vector<int> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  std::vector<std::vector<int>> choices = {all};
  const auto add = [&](std::vector<int> nodes) {
    std::ranges::sort(nodes);
    if (!nodes.empty() && std::ranges::find(choices, nodes) == choices.end()) choices.push_back(std::move(nodes));
  };
  std::vector<std::vector<int>> closest;  // of each measure, what is left without the largest gap
  for (const std::vector<double>& cost : node_costs(request)) {
    std::vector<std::vector<int>> groups = better_groups(all, cost);
    if (!groups.empty()) closest.push_back(groups.front());
    for (std::vector<int>& group : groups) add(std::move(group));
  }
  if (closest.size() < 2) return choices;
  std::vector<int> common = all;
  for (std::vector<int>& group : closest) {
    std::ranges::sort(group);
    std::vector<int> both;
    std::ranges::set_intersection(common, group, std::back_inserter(both));
    common = std::move(both);
  }
  add(std::move(common));
  return choices;
}

std::vector<int> close_nodes(const ShapeRequest& request, int count) {
  const Network& network = request.plan.network;
  const CostEstimate estimate(request);
  const Workload whole = request.workload_of({request.layers});
  const double layers = static_cast<double>(request.layers) / count * whole.samples;
  std::vector<double> cost_s;  // of a visit, by node
  for (const NetworkNode& node : network.nodes) cost_s.push_back(estimate.layer_s(node, 1) * layers);
  std::vector<double> reach_s(network.nodes.size(), 0);  // there and back, from the nearest one
  std::vector<bool> is_taken(network.nodes.size(), false);
  std::vector<int> taken;
  while (std::ssize(taken) < count) {
    size_t best = network.nodes.size();
    for (size_t i = 0; i < network.nodes.size(); ++i)
      if (!is_taken[i] && (best == network.nodes.size() || cost_s[i] + reach_s[i] < cost_s[best] + reach_s[best]))
        best = i;
    const auto node = static_cast<int>(best);
    for (int other = 0; other < network.size(); ++other) {
      if (other == node) continue;
      double& reach = reach_s[static_cast<size_t>(other)];
      const double found = round_trip_s(network, node, other, static_cast<double>(whole.activation_bytes));
      reach = taken.empty() ? found : std::min(reach, found);
    }
    is_taken[best] = true;
    taken.push_back(node);
  }
  std::ranges::sort(taken);
  return taken;
}

ShapeRequest request_for(const ShapeRequest& request, const std::vector<int>& nodes) {
  ShapeRequest result = request;
  result.plan.network = subnetwork(request.plan.network, nodes);
  return result;
}

void set_shape(const ShapeRequest& request, const Shape& shape, PlanRequest& plan) {
  plan.rules = request.plan.rules;
  plan.workload = request.workload_of(shape.stage_layers);
  plan.stages.clear();
  plan.nodes_per_stage = shape.nodes_per_stage;
  plan.microbatches = request.microbatches_of(shape.nodes_per_stage.front());
  if (request.may_skip_less) skip_less_if_needed(plan);
}

std::vector<int> stage_counts(const ShapeRequest& request) {
  const int most = std::min({request.layers, request.plan.network.size(), kMaxStages});
  std::vector<int> counts;
  for (int stages = 1; stages <= most; stages += stages < kAllStagesUpTo ? 1 : stages / kStepShare)
    counts.push_back(stages);
  return counts;
}

std::optional<PlanResult> check_stage_count(const ShapeRequest& request, int stages) {
  // Data nodes bring microbatches.
  const int most_data_nodes = std::max(1, request.plan.network.size() - stages + 1);
  const PlanRequest plan = request_of(request, stages, most_data_nodes);
  if (auto infeasible = check_path_length(plan)) return infeasible;
  const int length = path_length(plan);
  if (!PathGraph(stages, length, plan.rules).has_path())
    return PlanResult{.rule = kPathOrderRule,
                      .why = fmt::format("no path of {} of {} stages keeps it", length, stages)};
  return std::nullopt;
}

std::vector<Shape> candidate_shapes(const ShapeRequest& request, int stages) {
  const CostEstimate estimate(request);
  const std::vector<std::vector<int>> orders = node_orders(request, estimate);
  std::vector<Shape> shapes;
  const auto add = [&](const std::vector<int>& counts, std::optional<std::vector<int>> layers) {
    if (!layers || counts.front() > request.microbatches_of(counts.front())) return;
    Shape shape = {.stage_layers = *std::move(layers), .nodes_per_stage = counts};
    if (std::ranges::find(shapes, shape) == shapes.end()) shapes.push_back(std::move(shape));
  };
  for (const std::vector<int>& counts : candidate_counts(request, stages, estimate)) {
    add(counts, split_evenly(request.layers, stages));
    add(counts, give_layers(request.layers, estimate.of_counts(counts)));
    for (const std::vector<int>& order : orders)
      add(counts, give_layers(request.layers, estimate.of_stages(cut(order, counts))));
  }
  return shapes;
}

Shape shape_of(const Plan& plan) {
  return {.stage_layers = plan.workload.stage_layers, .nodes_per_stage = counts_of(plan)};
}

Shape balance_layers(const ShapeRequest& request, const Plan& plan) {
  const CostEstimate estimate(request);
  auto layers = give_layers(request.layers, estimate.of_stages(plan.stages));
  return {.stage_layers = layers ? *std::move(layers) : plan.workload.stage_layers, .nodes_per_stage = counts_of(plan)};
}

std::vector<Shape> move_nodes(const ShapeRequest& request, const Plan& plan) {
  const std::vector<StageCost> costs = CostEstimate(request).of_stages(plan.stages);
  const std::vector<int> counts = counts_of(plan);
  const std::vector<int>& layers = plan.workload.stage_layers;
  const auto busiest = static_cast<size_t>(
      std::ranges::max_element(
          costs, {}, [&](const StageCost& c) { return c.seconds(layers[static_cast<size_t>(&c - costs.data())]); }) -
      costs.begin());
  // What a stage would have to do with a node less.
  const auto without_one = [&](size_t s) { return costs[s].seconds(layers[s]) * counts[s] / (counts[s] - 1); };
  std::vector<Shape> shapes;
  for (const size_t taker : {busiest, size_t{0}}) {
    size_t giver = counts.size();
    for (size_t s = 0; s < counts.size(); ++s)
      if (s != taker && counts[s] > 1 && (giver == counts.size() || without_one(s) < without_one(giver))) giver = s;
    if (giver == counts.size()) continue;
    Shape shape = {.stage_layers = layers, .nodes_per_stage = counts};
    ++shape.nodes_per_stage[taker];
    --shape.nodes_per_stage[giver];
    if (shape.nodes_per_stage.front() <= request.microbatches_of(shape.nodes_per_stage.front()))
      shapes.push_back(std::move(shape));
  }
  return shapes;
}

double computed_share(const PlanRules& rules, const std::vector<int>& stage_layers) {
  if (stage_layers.size() == 1) return 1;
  PlanRequest request;
  request.rules = rules;
  request.workload.stage_layers = stage_layers;
  const double layers = std::accumulate(stage_layers.begin(), stage_layers.end(), 0.0);
  const double first = stage_layers.front();
  return (first + mean_visits(request) * (layers - first)) / layers;
}

}  // namespace skippipe
