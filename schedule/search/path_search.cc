#include "schedule/search/path_search.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "schedule/search/paths.h"

namespace skippipe {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

// The first time from `at_s` on when the node is not busy for so long.
double available_s(const std::vector<PathVisit>& busy, int node, double at_s, double duration_s) {
  for (bool moved = true; moved;) {
    moved = false;
    for (const PathVisit& other : busy) {
      if (other.node != node || at_s >= other.end_s || at_s + duration_s <= other.start_s) continue;
      at_s = other.end_s;
      moved = true;
    }
  }
  return at_s;
}

}  // namespace

PathSearch::PathSearch(const PlanRequest& request, int length)
    : request_(request),
      length_(length),
      most_swaps_(std::clamp(request.rules.max_swaps, 0, length)),
      most_behind_(most_swaps_ > 0 ? std::clamp(request.rules.max_swap_distance, 0, request.stage_count() - 1) : 0),
      stage_of_(request.network.nodes.size(), -1),
      round_trips_(stage_of_.size() * stage_of_.size()) {
  SKP_CHECK(request.stages.size() == static_cast<size_t>(request.stage_count()), "paths need stages");
  for (size_t s = 0; s < request.stages.size(); ++s)
    for (const int node : request.stages[s]) stage_of_[static_cast<size_t>(node)] = static_cast<int>(s);
  for (int a = 0; a < request.network.size(); ++a)
    for (int b = 0; b < request.network.size(); ++b) round_trip(a, b) = round_trip_s(request, a, b);
}

std::optional<TimedPath> PathSearch::run(const PathStart& start, const PathLimits& limits,
                                         const std::vector<double>& prices) {
  start_ = start;
  list_open_nodes(limits, prices);
  fill_estimates(start.data_node);
  states_.clear();
  heap_.clear();
  const double forward = forward_s(request_, start.data_node, 0);
  const double begin_s = available_s(limits.busy, start.data_node, start.at_s, forward);
  State first{.time_s = begin_s + forward, .node = start.data_node, .left = length_ - 1};
  first.cost_s = first.time_s + loss_s(request_, start.data_node) + backward_s(request_, start.data_node, 0);
  first.estimate_s = first.cost_s + estimates_s_[entry(first.left, 0, 0, start.data_node)];
  push(first);

  bool depth_first = false;
  const auto later = [&](int a, int b) {
    const State& x = states_[static_cast<size_t>(a)];
    const State& y = states_[static_cast<size_t>(b)];
    if (depth_first && x.left != y.left) return x.left > y.left;
    if (x.estimate_s != y.estimate_s) return x.estimate_s > y.estimate_s;
    return x.left != y.left ? x.left > y.left : a > b;
  };
  int best = -1;  // of the whole paths
  for (expansions_ = 0; !heap_.empty() && expansions_ < 2 * kMostExpansions; ++expansions_) {
    if (expansions_ >= kMostExpansions && best >= 0) break;
    if (expansions_ == kMostExpansions) {
      depth_first = true;
      std::make_heap(heap_.begin(), heap_.end(), later);
    }
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const int index = heap_.back();
    heap_.pop_back();
    if (states_[static_cast<size_t>(index)].left < 0) {
      best = index;
      break;
    }
    const size_t before = heap_.size();
    expand(index, limits);
    for (size_t i = before; i < heap_.size(); ++i) {
      const State& pushed = states_[static_cast<size_t>(heap_[i])];
      if (pushed.left < 0 && (best < 0 || pushed.estimate_s < states_[static_cast<size_t>(best)].estimate_s))
        best = heap_[i];
    }
    for (size_t i = before + 1; i <= heap_.size(); ++i)
      std::push_heap(heap_.begin(), heap_.begin() + static_cast<std::ptrdiff_t>(i), later);
  }
  if (best < 0) return std::nullopt;
  return time(start, nodes_of(best), limits.busy);
}

void PathSearch::list_open_nodes(const PathLimits& limits, const std::vector<double>& prices) {
  open_.assign(request_.stages.size(), {});
  node_cost_s_.assign(stage_of_.size(), 0);
  price_s_ = prices;
  price_s_.resize(stage_of_.size(), 0);
  for (size_t s = 1; s < request_.stages.size(); ++s) {
    if (!limits.banned_stages.empty() && limits.banned_stages[s]) continue;
    for (const int node : request_.stages[s]) {
      const auto n = static_cast<size_t>(node);
      if (!limits.banned_nodes.empty() && limits.banned_nodes[n]) continue;
      open_[s].push_back(node);
      node_cost_s_[n] = forward_s(request_, node, s) + backward_s(request_, node, s) + price_s_[n];
    }
  }
}

template <typename Visit>
void PathSearch::for_each_next(int stage, int furthest, int swaps, const Visit& visit) const {
  const int last = std::min(furthest + request_.rules.max_jump, request_.stage_count() - 1);
  for (int next = furthest + 1; next <= last; ++next)
    for (const int node : open_[static_cast<size_t>(next)]) visit(node, next, swaps);
  if (swaps == most_swaps_) return;
  for (int next = std::max(1, furthest - most_behind_); next < furthest; ++next)
    if (next != stage)
      for (const int node : open_[static_cast<size_t>(next)]) visit(node, furthest, swaps + 1);
}

void PathSearch::fill_estimates(int data_node) {
  estimates_s_.assign(entry(length_, 0, 0, 0), kInfinite);
  const auto nodes = static_cast<int>(stage_of_.size());
  for (int node = 0; node < nodes; ++node)
    for (int swaps = 0; swaps <= most_swaps_; ++swaps)
      for (int behind = 0; behind <= most_behind_; ++behind)
        estimates_s_[entry(0, swaps, behind, node)] = length_ > 1 ? round_trip(node, data_node) : 0;
  for (int left = 1; left < length_; ++left)
    for (int node = 0; node < nodes; ++node) {
      const int stage = stage_of(node);
      if (stage < 0 || (left == length_ - 1) != (node == data_node)) continue;
      for (int swaps = 0; swaps <= most_swaps_; ++swaps)
        for (int behind = 0; behind <= std::min(most_behind_, request_.stage_count() - 1 - stage); ++behind) {
          double least = kInfinite;
          for_each_next(stage, stage + behind, swaps, [&](int next, int furthest, int next_swaps) {
            least = std::min(least, round_trip(node, next) + node_cost_s_[static_cast<size_t>(next)] +
                                        estimates_s_[entry(left - 1, next_swaps, furthest - stage_of(next), next)]);
          });
          estimates_s_[entry(left, swaps, behind, node)] = least;
        }
    }
}

void PathSearch::push(State state) {
  if (state.estimate_s == kInfinite) return;
  heap_.push_back(static_cast<int>(states_.size()));
  states_.push_back(state);
}

void PathSearch::expand(int index, const PathLimits& limits) {
  const State state = states_[static_cast<size_t>(index)];
  if (state.left == 0) {
    const std::vector<int> nodes = nodes_of(index);
    State whole = state;
    whole.parent = index;
    whole.left = -1;
    whole.estimate_s = time(start_, nodes, limits.busy).end_s + price_of(nodes);
    push(whole);
    return;
  }
  for_each_next(stage_of(state.node), state.furthest, state.swaps, [&](int node, int furthest, int swaps) {
    const int stage = stage_of(node);
    if (visited(index, stage)) return;
    const double arrival_s = state.time_s + message_s(request_, state.node, node);
    const double forward = forward_s(request_, node, static_cast<size_t>(stage));
    const double begin_s = available_s(limits.busy, node, arrival_s, forward);
    State next{.cost_s = state.cost_s + begin_s - arrival_s + round_trip(state.node, node) +
                         node_cost_s_[static_cast<size_t>(node)],
               .time_s = begin_s + forward,
               .parent = index,
               .node = node,
               .furthest = furthest,
               .swaps = swaps,
               .left = state.left - 1};
    next.estimate_s = next.cost_s + estimates_s_[entry(next.left, swaps, furthest - stage, node)];
    push(next);
  });
}

bool PathSearch::visited(int index, int stage) const {
  for (; index >= 0; index = states_[static_cast<size_t>(index)].parent)
    if (stage_of(states_[static_cast<size_t>(index)].node) == stage) return true;
  return false;
}

std::vector<int> PathSearch::nodes_of(int index) const {
  std::vector<int> nodes;
  for (; index >= 0; index = states_[static_cast<size_t>(index)].parent)
    if (states_[static_cast<size_t>(index)].left >= 0) nodes.push_back(states_[static_cast<size_t>(index)].node);
  std::reverse(nodes.begin(), nodes.end());
  return nodes;
}

double PathSearch::price_of(const std::vector<int>& nodes) const {
  double sum = 0;
  for (size_t i = 1; i < nodes.size(); ++i) sum += price_s_[static_cast<size_t>(nodes[i])];
  return sum;
}

TimedPath PathSearch::time(const PathStart& start, const std::vector<int>& nodes,
                           const std::vector<PathVisit>& busy) const {
  TimedPath path{.nodes = nodes, .visits = {}, .end_s = start.at_s};
  int at = start.data_node;
  const auto compute = [&](int node, double duration_s) {
    const double arrival_s = path.end_s + (node == at ? 0 : message_s(request_, at, node));
    const double begin_s = available_s(busy, node, arrival_s, duration_s);
    at = node;
    path.end_s = begin_s + duration_s;
    path.visits.push_back({.node = node, .start_s = begin_s, .end_s = path.end_s});
  };
  const auto stage_at = [&](size_t i) { return static_cast<size_t>(stage_of(nodes[i])); };
  for (size_t i = 0; i < nodes.size(); ++i) compute(nodes[i], forward_s(request_, nodes[i], stage_at(i)));
  compute(start.data_node, loss_s(request_, start.data_node));
  for (size_t i = nodes.size(); i-- > 0;) compute(nodes[i], backward_s(request_, nodes[i], stage_at(i)));
  return path;
}

}  // namespace skippipe
