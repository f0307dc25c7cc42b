// The published baseline: stages as DT-FM places them (arXiv:2206.01288), every microbatch through all of them in
// order, and one fixed chain of replicas for each data node.
#include "base/error.h"
#include "schedule/machine/ranking.h"
#include "schedule/search/dtfm_placement.h"
#include "schedule/search/paths.h"
#include "schedule/search/planning.h"

namespace skippipe {
namespace {

// A chain's node of each stage. A stage's replicas are dealt to the chains as evenly as possible, stage by stage, such
// that the slowest chain so far, there and back, is as fast as possible.
class ChainBuilder {
 public:
  ChainBuilder(const PlanRequest& request, const std::vector<std::vector<int>>& stages)
      : request_(request), stages_(stages), so_far_s_(stages[0].size(), 0) {}

  std::vector<std::vector<int>> run() {
    std::vector<std::vector<int>> chains;
    for (const int data_node : stages_[0]) chains.push_back({data_node});
    for (size_t stage = 1; stage < stages_.size(); ++stage) extend(chains, stage);
    return chains;
  }

 private:
  void extend(std::vector<std::vector<int>>& chains, size_t stage) {
    const std::vector<int>& replicas = stages_[stage];
    CostMatrix costs(chains.size(), replicas.size());
    for (size_t chain = 0; chain < chains.size(); ++chain)
      for (size_t r = 0; r < replicas.size(); ++r)
        costs(chain, r) = time_with_s(chains[chain], chain, replicas[r], stage);
    const Matching matching = match_bottleneck(costs);
    for (size_t chain = 0; chain < chains.size(); ++chain) {
      const auto r = static_cast<size_t>(matching.column_of_row[chain]);
      so_far_s_[chain] = costs(chain, r);
      chains[chain].push_back(replicas[r]);
    }
  }

  // The last node's messages also go to the data node, which computes the loss.
  double time_with_s(const std::vector<int>& nodes, size_t chain, int node, size_t stage) const {
    const double return_s = stage + 1 == stages_.size() ? round_trip_s(request_, node, nodes[0]) : 0;
    return so_far_s_[chain] + round_trip_s(request_, nodes.back(), node) + forward_s(request_, node, stage) +
           backward_s(request_, node, stage) + return_s;
  }

  const PlanRequest& request_;
  const std::vector<std::vector<int>>& stages_;
  std::vector<double> so_far_s_;  // of each chain
};

class FullPlanner : public Planner {
 public:
  PlanResult plan(const PlanRequest& request) const override {
    if (auto infeasible = check_unskipped_request(request)) return *std::move(infeasible);
    PlanRequest whole = request;
    whole.rules.skip_ratio = 0;
    BudgetMeter meter(whole);
    Placements placements = place_stages(whole, meter);
    if (placements.best_first.empty()) return placements.why;
    whole.stages = std::move(placements.best_first[0].stages);
    Plan plan = begin_plan(whole, "full", whole.rules, whole.stage_count());
    const std::vector<std::vector<int>> chains = ChainBuilder(whole, plan.stages).run();
    // Data nodes take turns in the start order.
    for (size_t m = 0; m < plan.microbatches.size(); ++m)
      for (size_t s = 0; s < plan.stages.size(); ++s)
        plan.microbatches[m].visits[s].node = chains[m % chains.size()][s];
    Simulator simulator(whole.network);
    // Visits in one order of stages can't wait in a circle.
    SKP_CHECK(complete_plan(plan, simulator), "{}", simulator.describe_deadlock());
    meter.found(plan.predicted.iteration_s);
    return {.plan = std::move(plan)};
  }
};

}  // namespace

std::unique_ptr<Planner> make_full_planner() { return std::make_unique<FullPlanner>(); }

}  // namespace skippipe
