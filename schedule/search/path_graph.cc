#include "schedule/search/path_graph.h"

#include <algorithm>
#include <map>

namespace skippipe {
namespace {

constexpr int kTrackedDistance = 3;
constexpr int kTrackedSwaps = 4;

}  // namespace

PathGraph::PathGraph(int stages, int length, const PlanRules& rules)
    : stages_(stages),
      length_(length),
      max_jump_(rules.max_jump),
      max_distance_(rules.max_swaps > 0 ? std::min(rules.max_swap_distance, stages) : 0),
      max_swaps_(rules.max_swaps),
      counts_swaps_(rules.max_swaps <= kTrackedSwaps) {
  std::map<State, int> ids = {{State{}, 0}};
  states_.push_back({});
  for (size_t from = 0; from < states_.size(); ++from) {
    for (const State& to : next(states_[from])) {
      const auto [found, is_new] = ids.try_emplace(to, static_cast<int>(states_.size()));
      if (is_new) states_.push_back(to);
      edges_.push_back({static_cast<int>(from), found->second});
    }
  }
  mark_valid();
}

std::vector<PathGraph::State> PathGraph::next(const State& state) const {
  std::vector<State> result;
  const uint32_t tracked = (1u << std::min(max_distance_, kTrackedDistance)) - 1;
  for (int jump = 1; jump <= max_jump_ && state.furthest + jump < stages_; ++jump) {
    // The stages seen so far lie `jump` further behind, the one left behind right before them.
    const uint32_t seen = jump > kTrackedDistance ? 0 : (state.seen << 1 | 1u) << (jump - 1);
    result.push_back({.furthest = state.furthest + jump, .behind = 0, .swaps = state.swaps, .seen = seen & tracked});
  }
  if (counts_swaps_ && state.swaps == max_swaps_) return result;
  for (int back = 1; back <= max_distance_ && back < state.furthest; ++back) {
    if (back == state.behind || (back <= kTrackedDistance && (state.seen >> (back - 1) & 1u))) continue;
    State to = state;
    to.behind = back;
    if (counts_swaps_) ++to.swaps;
    if (back <= kTrackedDistance) to.seen |= 1u << (back - 1);
    result.push_back(to);
  }
  return result;
}

// What can be reached from the start, and reaches the last layer.
void PathGraph::mark_valid() {
  const size_t count = states_.size();
  valid_.assign(count * static_cast<size_t>(length_), 0);
  valid_[0] = 1;
  for (size_t layer = 0; layer + 1 < static_cast<size_t>(length_); ++layer)
    for (const Edge& edge : edges_)
      if (valid_[layer * count + static_cast<size_t>(edge.from)])
        valid_[(layer + 1) * count + static_cast<size_t>(edge.to)] = 1;
  std::vector<uint8_t> ends(count);
  for (size_t layer = static_cast<size_t>(length_) - 1; layer-- > 0;) {
    std::fill(ends.begin(), ends.end(), uint8_t{0});
    for (const Edge& edge : edges_)
      if (valid_[(layer + 1) * count + static_cast<size_t>(edge.to)]) ends[static_cast<size_t>(edge.from)] = 1;
    for (size_t state = 0; state < count; ++state) valid_[layer * count + state] &= ends[state];
  }
}

}  // namespace skippipe
