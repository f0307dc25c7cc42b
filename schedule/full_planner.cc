// The baseline: every microbatch visits all the stages in order, and a data node's microbatches share one chain.
#include "schedule/search.h"

namespace skippipe {
namespace {

size_t data_node_of(const Plan& plan, size_t microbatch) { return microbatch % plan.stages[0].size(); }

// Data nodes take turns in the start order; a stage's replicas are dealt to the chains as evenly as possible.
void lay_chains(Plan& plan) {
  const size_t chains = plan.stages[0].size();
  for (size_t m = 0; m < plan.microbatches.size(); ++m) {
    const size_t chain = data_node_of(plan, m);
    for (size_t s = 0; s < plan.stages.size(); ++s) {
      const std::vector<int>& replicas = plan.stages[s];
      plan.microbatches[m].visits[s].node = replicas[chain * replicas.size() / chains];
    }
  }
}

// Two chains exchange their replicas of one stage.
bool exchange_between_chains(Plan& plan, Random& random) {
  const size_t chains = plan.stages[0].size();
  if (plan.stages.size() < 2 || chains < 2 || plan.microbatches.size() < chains) return false;
  const size_t stage = 1 + random.below(plan.stages.size() - 1);
  const size_t a = random.below(chains);
  const size_t b = random.below(chains);
  // The first microbatches in start order have one of each chain.
  const int node_a = plan.microbatches[a].visits[stage].node;
  const int node_b = plan.microbatches[b].visits[stage].node;
  if (node_a == node_b) return false;
  for (size_t m = 0; m < plan.microbatches.size(); ++m) {
    int& node = plan.microbatches[m].visits[stage].node;
    if (data_node_of(plan, m) == a) {
      node = node_b;
    } else if (data_node_of(plan, m) == b) {
      node = node_a;
    }
  }
  return true;
}

class FullPlanner : public Planner {
 public:
  PlanResult plan(const PlanRequest& request) const override {
    if (auto infeasible = check_request(request)) return *std::move(infeasible);
    PlanRules rules = request.rules;
    rules.skip_ratio = 0;
    Random random(request.seed, {0});
    Plan start = begin_plan(request, "full", rules, request.stage_count(), random);
    lay_chains(start);
    const bool may_place = request.stages.empty();
    const Move move = [may_place](Plan& plan, Random& r) {
      return r.below(2) == 0 ? exchange_between_chains(plan, r) : exchange_nodes(plan, r, may_place);
    };
    return search(request, std::move(start), move, random);
  }
};

}  // namespace

std::unique_ptr<Planner> make_full_planner() { return std::make_unique<FullPlanner>(); }

}  // namespace skippipe
