// Re-planning: what becomes of a plan when nodes are gone or have joined. What a running engine calls.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"
#include "schedule/search/planner.h"

namespace skippipe {

struct ReplanOptions {
  // Names of nodes that are not there now, though the network may still hold them: then the new plan does, too, in no
  // stage, and all nodes keep their indices. Those that were gone before may be named again.
  std::vector<std::string> gone = {};
  // Stages for named nodes: of those that join, or survivors that are told to move.
  std::map<std::string, int> places = {};
  // A stage with no node left, and none that joins, takes one from a stage with most replicas.
  bool may_move = false;
  // Of the search for paths; neither evaluations nor seconds: none. Default: as many evaluations as take about a third
  // of a second on one core, fewer for longer iterations.
  std::optional<SearchBudget> budget = {};
  uint64_t seed = 0;
};

// A plan for the nodes of `network` that are not gone, matched to the old plan's by name, under its rules and workload:
//  - Survivors keep their stages. Nodes without a stage (new ones, ones that are back, spare ones) go, the fastest
//  first,
//    where simulated time is the least, and stay unused where every stage would make the iteration longer.
//  - Paths keep their stages; visits of nodes that are gone go to other replicas by load and delay, and a node that
//    joins takes its share. Data nodes share the microbatches of those that are gone: an iteration keeps its number of
//    microbatches and so its batch, and with it the loss curve.
//  - Then a search for paths on these stages, from there. The plan is never slower than without it.
//  - Nodes that no path visits then leave their stages where that makes nothing slower, unless they were told theirs.
// Deterministic unless the budget says seconds. Infeasible: a stage has no node left (recutting.h may help), a node
// can't hold its stage. Throws PlanError for an old plan that is not valid, and ConfigError naming the node or field
// that makes no sense.
PlanResult replan(const Plan& old, const Network& network, const ReplanOptions& options);

// Nodes of the network that are not gone, ascending. Throws ConfigError for names that neither plan nor network has.
std::vector<int> nodes_left(const Plan& old, const Network& network, const std::vector<std::string>& gone);

// The request that a plan answers on its own stages.
PlanRequest request_of(const Plan& plan, const Network& network);

// What differs between two plans, nodes matched by name and stages by number.
struct PlanChange {
  struct Node {
    std::string name;
    int from = -1;  // stages
    int to = -1;
  };
  std::vector<Node> gone;    // had a stage, have none; also those that are there, but left out
  std::vector<Node> joined;  // have one, had none
  std::vector<Node> moved;
  std::vector<std::string> unused;  // of the new plan: have no stage and had none
  int visits = 0;                   // of an iteration
  int moved_visits = 0;             // of them, as many as some nodes serve more than before
};
PlanChange compare_plans(const Plan& before, const Plan& after);

}  // namespace skippipe
