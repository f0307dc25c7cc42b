// Planners: from a network and a workload to a plan. All behind one interface; make_planner() knows them by name.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

// A search ends with whichever comes first. The same seed, evaluations and threads give the same plan; a limit of
// seconds gives plans that depend on the machine's speed.
struct SearchBudget {
  int64_t evaluations = 20000;  // simulated candidates, or what takes about as long; 0: no limit
  double seconds = 0;           // of wall time; 0: no limit
  int threads = 1;
};

struct SearchProgress {
  int64_t evaluations = 0;
  double elapsed_s = 0;
  double best_s = std::numeric_limits<double>::infinity();  // iteration of the best plan so far; infinite: none yet
};

struct PlanRequest {
  Network network;
  PlanRules rules;
  Workload workload;  // its lists say the number of stages
  // Nodes of each stage. Empty: the planner searches for the best places.
  std::vector<std::vector<int>> stages;
  // How many nodes each stage has when `stages` is empty, in all the network's. Empty: split_evenly; "joint" then looks
  // for the best sizes, and may leave nodes out.
  std::vector<int> nodes_per_stage;
  // A plan to begin from, of these nodes, rules and microbatches, and of `stages` and sizes where they are given: a
  // planner that improves plans starts with its stages and its paths in their start order, changes them little at a
  // time, and returns nothing slower. Others do without.
  std::optional<Plan> start = std::nullopt;
  int microbatches = 1;  // of an iteration, over all data nodes
  // Two replicas of a stage exchange a message of activations within this time, both ways. For requests without
  // gradients, whose reduction would otherwise keep slow links out of stages.
  double max_replica_delay_s = std::numeric_limits<double>::infinity();
  uint64_t seed = 0;
  SearchBudget budget;
  // Called now and then, from one thread at a time.
  std::function<void(const SearchProgress&)> progress;

  int stage_count() const { return static_cast<int>(workload.stage_layers.size()); }
};

// How many evaluations take as long as simulating this many visits of microbatches, at least one: a budget that takes
// about as long for requests of any size, and the same on every machine. A core simulates 3 to 16 million a second.
int64_t evaluations_of(const PlanRequest& request, double visits);

// Nodes or layers over stages: as even as possible, earlier stages taking what is left over.
std::vector<int> split_evenly(int count, int stages);

// A plan, or the rule that can't be met.
struct PlanResult {
  std::optional<Plan> plan = std::nullopt;
  std::string rule = {};
  std::string why = {};  // one line with the numbers
};

class Planner {
 public:
  virtual ~Planner() = default;
  // Deterministic in the request unless its budget is of seconds. Throws ConfigError for a request that makes no sense
  // (no microbatch, lists of different lengths); rules that can't be met are a result.
  virtual PlanResult plan(const PlanRequest& request) const = 0;
  // Whether it begins with PlanRequest::start, and looks for the best sizes of stages where none are given.
  virtual bool improves_plans() const { return false; }
};

// Their names, in the order in which they are told.
const std::vector<std::string>& planning_methods();

// "full": every path visits all the stages in order; a data node's microbatches share one chain of replicas. Stages are
// placed as in DT-FM (arXiv:2206.01288), here and in the next three.
// "random-skip": random paths under C1-C4.
// "skippipe-no-collision", "skippipe": the published search for paths (arXiv:2502.19913), without and with T2.
// "joint": each microbatch has a path of its own under C1-C4 (arXiv:2502.19913); placement and paths are searched
// together on simulated time. Throws ConfigError for an unknown name.
std::unique_ptr<Planner> make_planner(std::string_view method);

}  // namespace skippipe
