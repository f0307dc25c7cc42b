// Which replicas a path should use, given what the other paths use: the shortest way through its stages where nodes,
// links and slots cost the more the busier they are.
#pragma once

#include <span>
#include <vector>

#include "base/random.h"
#include "schedule/search/evaluator.h"
#include "schedule/search/planner.h"

namespace skippipe {

// Owned by one thread. Keeps a reference to the request.
class Router {
 public:
  explicit Router(const PlanRequest& request);

  // Measures how busy everything is with the candidate's paths in an iteration of about `iteration_s`. `crowding` is
  // how much that matters: 0 finds the shortest way of a single microbatch.
  void measure(const Candidate& candidate, double iteration_s, double crowding);
  // Takes a path out of what is measured, chooses the replicas of its visits anew (its stages, their order
  // and the data node stay), and puts it back.
  void reroute(const Candidate& candidate, std::span<int> path);

 private:
  void add(std::span<const int> path, double sign);
  double visit_cost(int node, double hold_s) const;
  double hop_cost(int from, int to) const;
  double work_s(int node) const { return work_s_[static_cast<size_t>(node)]; }
  size_t link(int from, int to) const {
    return static_cast<size_t>(from) * static_cast<size_t>(node_count_) + static_cast<size_t>(to);
  }

  const PlanRequest& request_;
  int node_count_ = 0;
  std::vector<double> round_trip_s_;  // of a microbatch's two messages over a link, there and back
  std::vector<double> occupied_s_;    // of one message
  double iteration_s_ = 1;
  double crowding_ = 0;
  std::vector<int> stage_of_;
  std::vector<double> work_s_;              // of a visit's passes, by node
  std::vector<double> slots_;               // likewise
  std::vector<double> node_s_, slot_s_;     // busy, by node
  std::vector<double> link_s_;              // likewise by link
  std::vector<double> hold_s_;              // by position: how long a visit holds its slot; scratch like the following
  std::vector<std::vector<double>> costs_;  // by position and replica
  std::vector<std::vector<int>> previous_;
};

}  // namespace skippipe
