// The legal orders of stages along a path (C2, C3), as a graph in layers: one layer for each visit.
#pragma once

#include <cstdint>
#include <vector>

#include "schedule/plan/plan.h"

namespace skippipe {

// Where a path stands after some visits: all that says where it may go next. States beyond what is tracked (swaps that
// go more than 3 back, more than 4 swaps) allow more than the rules do, never less.
class PathGraph {
 public:
  struct Edge {
    int from = 0, to = 0;
  };

  // Paths through `length` of `stages` stages, beginning at stage 0, which is state 0.
  PathGraph(int stages, int length, const PlanRules& rules);

  int states() const { return static_cast<int>(states_.size()); }
  int layers() const { return length_; }
  // The stage of the last visit.
  int stage(int state) const {
    return states_[static_cast<size_t>(state)].furthest - states_[static_cast<size_t>(state)].behind;
  }
  const std::vector<Edge>& edges() const { return edges_; }
  // Some path is in this state after layer + 1 visits.
  bool valid(int layer, int state) const {
    return valid_[static_cast<size_t>(layer) * states_.size() + static_cast<size_t>(state)] != 0;
  }
  bool has_path() const { return valid(0, 0); }

 private:
  struct State {
    int furthest = 0;   // stage reached
    int behind = 0;     // how far behind it the last visit is
    int swaps = 0;      // made so far; those that may not be counted stay 0
    uint32_t seen = 0;  // bit i: stage furthest - 1 - i was visited
    auto operator<=>(const State&) const = default;
  };

  std::vector<State> next(const State& state) const;
  void mark_valid();

  const int stages_, length_;
  const int max_jump_, max_distance_, max_swaps_;
  const bool counts_swaps_;
  std::vector<State> states_;
  std::vector<Edge> edges_;
  std::vector<uint8_t> valid_;
};

}  // namespace skippipe
