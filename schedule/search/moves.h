// What a search may change in a candidate, at random, while C1-C5 hold and what the request says of
// stages. Whether nodes can hold their stages is the evaluator's to say.
#pragma once

#include <vector>

#include "base/random.h"
#include "schedule/search/evaluator.h"
#include "schedule/search/paths.h"
#include "schedule/search/planner.h"
#include "schedule/search/router.h"

namespace skippipe {

// Until every data node starts as many microbatches as the others, but for one: those that start more than others give
// some, at random. Rows whose data node is -1 stay.
void equalize_data(Candidate& candidate, Random& random);

// Owned by one thread. Keeps a reference to the request.
class Moves {
 public:
  explicit Moves(const PlanRequest& request);

  // One small change; false: what was tried changes nothing or is against a rule, and the candidate may be broken.
  // `iteration_s` is about what the candidate takes.
  [[nodiscard]] bool change(Candidate& candidate, double iteration_s, Random& random);

 private:
  bool change_something(Candidate& candidate, Random& random);
  int stage_of(int node) const { return stage_of_[static_cast<size_t>(node)]; }
  int random_row(const Candidate& candidate, Random& random) const;
  const PathStages& stages_of(std::span<const int> path, PathStages& scratch) const;
  bool settle(std::span<int> path);

  std::vector<int>& random_group(Candidate& candidate, Random& random);
  bool exchange_nodes(Candidate& candidate, Random& random);
  bool resize(Candidate& candidate, Random& random);
  void leave(Candidate& candidate, int node, Random& random);
  void join(Candidate& candidate, int node, int stage, Random& random);
  bool exchange_rows(Candidate& candidate, Random& random);
  bool move_row(Candidate& candidate, Random& random);
  bool reorder(Candidate& candidate, Random& random);
  bool change_replica(Candidate& candidate, Random& random);
  bool exchange_replicas(Candidate& candidate, Random& random);
  bool exchange_stages(Candidate& candidate, Random& random);
  bool exchange_stages_of(std::span<int> a, std::span<int> b, Random& random);
  bool replace_stage(Candidate& candidate, Random& random);
  bool reroute(Candidate& candidate, Random& random);
  bool exchange_stages_and_reroute(Candidate& candidate, Random& random);
  bool exchange_nodes_and_reroute(Candidate& candidate, Random& random);
  bool exchange_groups_and_reroute(Candidate& candidate, Random& random);
  template <typename Instead>
  void replace_and_reroute(Candidate& candidate, Random& random, const Instead& instead);
  void measure(const Candidate& candidate, Random& random);

  struct Weighted {
    bool (Moves::*move)(Candidate&, Random&);
    int weight;
  };

  const PlanRequest& request_;
  Router router_;
  double iteration_s_ = 0;
  std::vector<Weighted> moves_;
  int weights_ = 0;
  std::vector<int> stage_of_;  // by node, -1: unused
  std::vector<int> unused_;
  std::vector<int> served_;  // by stage; scratch, like the following
  PathStages stages_a_, stages_b_;
};

}  // namespace skippipe
