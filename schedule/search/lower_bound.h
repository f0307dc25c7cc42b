// How fast an iteration can be at best: a floor under every plan's simulated time, to judge a search by.
#pragma once

#include <string>
#include <vector>

#include "schedule/search/planner.h"

namespace skippipe {

struct LowerBound {
  double seconds = 0;  // infinite: there is no legal plan
  std::string what;    // one line with the numbers: which limit holds
};

// No legal plan of the request (C1-C5, T1) with the nodes of each stage as given takes less seconds in the simulator
// for its first iteration. The highest of what is cheap to prove:
//  - slots: a microbatch holds a slot of its data node, and of every node that it visits, for at least the shortest
//  legal
//    way on to its loss and back, computing and messages included;
//  - work: the visits that C4 gives to a stage take its replicas' time, and all visits all replicas' time;
//  - uplinks: a node sends two messages for each visit;
//  - the slots of all nodes together (slot_prices.h): who is near to many can't serve them all.
// Each counts from the first moment at which work can reach a node, and adds what must follow its last backward pass:
// the way back to the data node, the sum of gradients, norms and the step. Visits are distributed over nodes, and
// microbatches over data nodes, as well as can be. The shortest ways are exact under C2 and C3 where swaps go at most 3
// back and number at most 4, and relaxed beyond. The request's own stages and sizes are ignored.
LowerBound lower_bound(const PlanRequest& request, const std::vector<std::vector<int>>& stages);

// The same for stages that are not chosen yet: wherever the nodes go, in as many for each stage as the request says, or
// in any. Looser.
LowerBound lower_bound(const PlanRequest& request);
// The same without the slots of all nodes together, which take a tenth of a second: to rank many requests.
LowerBound quick_lower_bound(const PlanRequest& request);

}  // namespace skippipe
