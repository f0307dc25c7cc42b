// Every legal plan of a small request, by enumeration: the oracle of planners and floors.
#pragma once

#include <cstdint>
#include <vector>

#include "schedule/machine/simulator.h"
#include "schedule/search/planner.h"

namespace skippipe::test {

// Of given stages: all paths of all microbatches in every start order, simulated.
class AllPlans {
 public:
  explicit AllPlans(const PlanRequest& request);

  double count() const;
  // The least simulated seconds of those that keep C4 and C5; infinite: none does, or all deadlock.
  double best();

 private:
  double seconds();
  bool keeps_exposure() const;
  bool shares_data() const;

  const PlanRequest& request_;
  std::vector<std::vector<int>> paths_;
  Simulator simulator_;
  Plan plan_;
};

// The nodes in all the ways that they can be dealt to the stages: as many to each as nodes_per_stage says; or, where it
// is empty, any that leave no stage empty, with nodes left out, too. Of those that can hold their stages.
std::vector<std::vector<std::vector<int>>> all_placements(const PlanRequest& request);

// 1 to 4 stages of 1 or 2 nodes that differ in all that a network can say, under random rules.
PlanRequest tiny_request(uint64_t seed);

}  // namespace skippipe::test
