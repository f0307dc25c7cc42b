// A floor under all plans from the slots of all nodes together: who is near to many can't serve them all.
#pragma once

#include <cstdint>
#include <vector>

#include "schedule/search/bound_costs.h"
#include "schedule/search/path_graph.h"
#include "schedule/search/planner.h"

namespace skippipe {

// A microbatch holds a slot of each node that it visits from its forward to the end of its backward pass, at least for
// the shortest way on from there to its loss and back. In an iteration of T seconds a node has so many seconds of
// slots: the first holder of its j-th slot begins j forward passes after the first one, and the last one ends j
// backward passes before the end, as one device runs them one after the other. So whatever a second of a slot is
// said to be worth at each node (one price for data nodes, one for others), and a visit of each stage, the microbatches
// of a plan of T seconds pay no more than the nodes have to sell; but each pays at least for the cheapest legal path
// from its data node. A T at which the cheapest choice of data nodes can't be paid is too short: weak duality
// (Geoffrion 1974, "Lagrangean relaxation for integer programming"). Good prices are found by raising those of nodes
// whose seconds are asked for too often (multiplicative weights: Plotkin, Shmoys, Tardos 1995); any are right.
class SlotPrices {
 public:
  // Seconds of slots of a node in an iteration.
  struct Supply {
    int slots = 0;
    double head_s = 0;       // no visit before
    double tail_s = 0;       // what follows the last visit
    double staggered_s = 0;  // between two slots' first holders, and between their last ones, together

    double seconds(double iteration_s) const;
    // The least time from the first visit's start to the last one's end that has so many seconds.
    double window_s(double seconds) const;
  };
  struct DataNode {
    int node = 0;
    double work_s = 0;  // of a microbatch: forward and backward
    double loss_s = 0;
    Supply supply;
  };
  // A node where a path may be.
  struct Place {
    int node = 0;
    int stage = 0;
    double work_s = 0;  // forward and backward
  };
  // Visits behind the data node's: layers of states, each of some places.
  struct Trips {
    int visits = 0;
    std::vector<std::vector<Place>> places = {};             // by state
    std::vector<int> first = {};                             // states of the first visit
    std::vector<std::vector<PathGraph::Edge>> further = {};  // from each visit but the last to the next
  };
  struct Problem {
    int nodes = 0;  // of the network
    int64_t microbatches = 0;
    std::vector<DataNode> data_nodes = {};  // or those that may be
    int data_node_count = 0;                // so many of them are, at most
    int64_t most_each = 0;                  // microbatches of a data node, at most
    std::vector<Supply> others = {};        // by node, where it is no data node
    Trips trips = {};
    // Visits of a stage, at least and at most; empty: any.
    std::vector<int64_t> fewest_visits = {}, most_visits = {};
  };

  SlotPrices(const BoundCosts& costs, Problem problem);

  // No plan takes less seconds. 0 where the search for prices would take too long.
  double floor_s();

 private:
  using Costs = std::vector<double>;
  struct Step {
    int state = -1;
    int place = -1;
  };
  // Of a data node's microbatches, from each place on: what they pay at least, and where they go.
  struct Ways {
    std::vector<std::vector<Costs>> prices;            // by visit and state, of each place
    std::vector<std::vector<std::vector<Step>>> next;  // likewise
  };
  // The cheapest way of a data node's microbatch.
  struct Trip {
    double price = 0;
    double seconds = 0;  // from its forward to the end of its backward pass
    std::vector<Step> steps = {};
  };
  struct Choice {
    double excess = 0;                  // of what is asked for over what there is, in prices
    std::vector<int64_t> started = {};  // by data node
  };
  struct Prices {
    Costs data, other;  // of a second, by node
    Costs visit;        // by stage, may be negative
  };

  double both_ways_s(int a, int b) const {
    return both_ways_s_[static_cast<size_t>(a) * static_cast<size_t>(problem_.nodes) + static_cast<size_t>(b)];
  }
  double visit_price(size_t data_node, int visit, int state, size_t place) const;
  Ways cheapest_ways(size_t data_node) const;
  void end_ways(size_t data_node, Ways& ways) const;
  void extend_ways(size_t data_node, int visit, const PathGraph::Edge& edge, Ways& ways) const;
  Trip cheapest_trip(size_t data_node, const Ways& ways) const;
  void measure_holds();
  void find_trips();
  Choice choose(double iteration_s) const;
  Choice choose_all(double iteration_s) const;
  Choice choose_some(double iteration_s) const;
  double sold(double iteration_s) const;
  int64_t most_started(size_t data_node, double iteration_s) const;
  double root_above(double iteration_s) const;
  void adjust(const Choice& choice, double iteration_s, double step);
  double pairs() const;

  const Problem problem_;
  Costs both_ways_s_;                                   // of messages, by pair of nodes
  std::vector<std::vector<std::vector<Costs>>> holds_;  // by data node, visit and state, of each place
  Costs shortest_s_;                                    // trip of each data node
  Prices weights_;                                      // logarithms, but for visits
  Prices prices_;
  std::vector<Trip> trips_;
};

}  // namespace skippipe
