// The low level of the published path search (arXiv:2502.19913): A* for one microbatch's path, from its data node
// through the stages and back, under C1-C3 and what the high level (schedule/search/conflict_search.h) forbids this
// path.
#pragma once

#include <optional>
#include <vector>

#include "schedule/search/planner.h"

namespace skippipe {

// When a path computes on a node.
struct PathVisit {
  int node = 0;
  double start_s = 0;
  double end_s = 0;
};

struct TimedPath {
  std::vector<int> nodes;         // the data node first
  std::vector<PathVisit> visits;  // forward, loss on the data node, backward
  double end_s = 0;               // of the last backward pass
};

// What one path may not do.
struct PathLimits {
  std::vector<bool> banned_stages;  // empty: none
  std::vector<bool> banned_nodes;   // empty: none
  std::vector<PathVisit> busy;      // it computes elsewhere, or waits, while a node is busy
};

struct PathStart {
  int data_node = 0;
  double at_s = 0;
};

// The path that ends first on free links; of those with prices, the least sum of its end and its nodes' prices.
//
// A state is the way so far and its time. The estimate of what is left, there and back, is exact but for waiting and
// for visiting a stage twice, which it allows; so it never exceeds the truth. After kMostExpansions states the best
// path so far is the result, or else the first that a depth-first search from there finds: long paths with many swaps
// have more cheap beginnings than can be looked at.
class PathSearch {
 public:
  // Of `length` visits through request.stages, which must be given. The request must outlive this.
  PathSearch(const PlanRequest& request, int length);

  // Nothing: the limits leave no path. `prices` in seconds for each node; empty: none.
  std::optional<TimedPath> run(const PathStart& start, const PathLimits& limits, const std::vector<double>& prices);

  // How many states the last run expanded.
  int expansions() const { return expansions_; }

  // The same path's times, with the waiting that `busy` asks for.
  TimedPath time(const PathStart& start, const std::vector<int>& nodes, const std::vector<PathVisit>& busy) const;

 private:
  struct State {
    double estimate_s = 0;  // of the whole path, prices included
    double cost_s = 0;      // so far: waiting, and both ways along the path
    double time_s = 0;      // its forward pass on the last node ends
    int parent = -1;
    int node = 0;
    int furthest = 0;  // stage
    int swaps = 0;
    int left = 0;  // visits to go; -1: a whole path, with its exact time
  };

  static constexpr int kMostExpansions = 4000;

  size_t entry(int left, int swaps, int behind, int node) const {
    return ((static_cast<size_t>(left) * static_cast<size_t>(most_swaps_ + 1) + static_cast<size_t>(swaps)) *
                static_cast<size_t>(most_behind_ + 1) +
            static_cast<size_t>(behind)) *
               stage_of_.size() +
           static_cast<size_t>(node);
  }
  double& round_trip(int a, int b) {
    return round_trips_[static_cast<size_t>(a) * stage_of_.size() + static_cast<size_t>(b)];
  }
  int stage_of(int node) const { return stage_of_[static_cast<size_t>(node)]; }

  void list_open_nodes(const PathLimits& limits, const std::vector<double>& prices);
  void fill_estimates(int data_node);
  // Calls visit(node, furthest, swaps) for each next visit that C3 and the limits allow.
  template <typename Visit>
  void for_each_next(int stage, int furthest, int swaps, const Visit& visit) const;
  void expand(int index, const PathLimits& limits);
  void push(State state);
  bool visited(int index, int stage) const;
  std::vector<int> nodes_of(int index) const;
  double price_of(const std::vector<int>& nodes) const;

  const PlanRequest& request_;
  int length_;
  int most_swaps_;
  int most_behind_;
  std::vector<int> stage_of_;
  std::vector<double> round_trips_;
  std::vector<std::vector<int>> open_;  // nodes of each stage that may be visited
  std::vector<double> node_cost_s_;     // forward, backward and price
  std::vector<double> price_s_;
  std::vector<double> estimates_s_;  // by entry()
  std::vector<State> states_;
  std::vector<int> heap_;
  PathStart start_;
  int expansions_ = 0;
};

}  // namespace skippipe
