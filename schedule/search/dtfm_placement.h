// Nodes to stages as in DT-FM (Yuan et al. 2022, arXiv:2206.01288): a genetic search over partitions whose local search
// exchanges nodes cyclically between groups. Its cost of a partition is data-parallel (the slowest reduction within a
// group) plus pipeline-parallel: each pair of groups is coarsened to the dearest link of their bottleneck matching, and
// the groups stand in the order of the cheapest tour through them.
//
// Where we differ from the paper: the tour ends where it began, for the loss is computed at the data nodes; nodes are
// of unlike speed, so that computing counts; groups and stages may be of unlike size, number of layers and bytes.
#pragma once

#include <vector>

#include "schedule/search/budget_meter.h"
#include "schedule/search/planner.h"

namespace skippipe {

// Row by row.
class CostMatrix {
 public:
  CostMatrix(size_t rows, size_t columns, double value = 0) : columns_(columns), values_(rows * columns, value) {}
  double& operator()(size_t row, size_t column) { return values_[row * columns_ + column]; }
  double operator()(size_t row, size_t column) const { return values_[row * columns_ + column]; }
  size_t rows() const { return columns_ == 0 ? 0 : values_.size() / columns_; }
  size_t columns() const { return columns_; }

 private:
  size_t columns_;
  std::vector<double> values_;
};

struct Matching {
  std::vector<int> column_of_row;
  double bottleneck = 0;  // the dearest pair
};

// Deals rows to columns, each column floor or ceil of rows / columns times, so that the dearest pair is as cheap as
// possible: of a square matrix, its bottleneck perfect matching. Costs are finite and at least 0.
Matching match_bottleneck(const CostMatrix& costs);

// The cheapest tour through all groups that begins and ends at group 0: the group at each position. Costs: links[a, b]
// from group a to the next, b, and places[g, p] of group g at position p, infinite where it can't stand (not so for
// g == p). Exact for up to 12 groups, else a local optimum under exchanges of two groups.
std::vector<int> order_groups(const CostMatrix& links, const CostMatrix& places);

struct Placement {
  std::vector<std::vector<int>> stages;
  double cost_s = 0;  // data-parallel plus pipeline-parallel, of one iteration
};

struct Placements {
  std::vector<Placement> best_first;  // unlike each other in cost; empty: none was found that fits
  PlanResult why;                     // then, the rule and the numbers
};

// Stages for a request that has none, the last population of the search; or its own, with their cost. Two groups' link
// is a message of activations there and one of gradients back. Gradients of no bytes cost what a message of activations
// between replicas does, which is all that is known then, and keeps slow links out of stages. Spends `meter`, one
// evaluation for kPartitionsPerEvaluation partitions: they take about as long as a simulation.
constexpr int kPartitionsPerEvaluation = 8;
Placements place_stages(const PlanRequest& request, BudgetMeter& meter);

}  // namespace skippipe
