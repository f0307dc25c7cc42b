// The high level of the published path search (arXiv:2502.19913): conflict-based search (Sharon et al. 2015). Paths are
// planned one by one; where they conflict, the search branches over which of them gives way, and plans that one again.
//
// Conflicts, settled in this order as published:
//   C4  a stage has more paths than its share (where exposure need not be equal: while another stage has none): a path
//       that visits it may no longer;
//   T1  a node has more microbatches in flight than slots: a path through it may no longer use it. A node that must
//   take
//       more because its stage has too few slots in all may have its even share;
//   T2  two paths compute on one node at once: one of them may not while the other does.
//
// Bounded. Two runs share the budget, one evaluation per path planned (more for one that takes long). The first goes
// for few conflicts and finds a solution soon: paths are planned one after another, slowest first, and pay for every
// conflict with those before; of the branches it takes those of fewest conflicts (greedy, Barer et al. 2014). The
// second plans every path as if alone, as published, and follows the branches with the fewest conflicts among those
// whose slowest path ends within kSuboptimality of the least (focal search). A conflict of many paths branches over the
// kMostBranches that end first only, as they have most time to lose.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "schedule/search/budget_meter.h"
#include "schedule/search/path_search.h"

namespace skippipe {

// One path to plan.
struct PathAgent {
  PathStart start;
  int wave = 0;       // paths of different waves are under way at different times
  int in_flight = 1;  // microbatches that the path has under way at once
};

enum class Collisions { kIgnored, kAvoided };  // T2

class ConflictSearch {
 public:
  // `request` has its stages; `length` counts visits of a path. Both referenced objects must outlive this.
  ConflictSearch(const PlanRequest& request, int length, std::vector<PathAgent> agents, Collisions collisions,
                 BudgetMeter& meter);

  // Paths for all agents that keep C1-C4: up to kMostSolutions without conflicts, or else those with the fewest found.
  // Empty: none found.
  std::vector<std::vector<TimedPath>> run();

 private:
  static constexpr double kSuboptimality = 1.05;
  static constexpr size_t kMostBranches = 4;
  static constexpr size_t kMostSolutions = 8;
  static constexpr int kExpansionsPerEvaluation = 100;
  static constexpr int kGreedyPatience = 200;  // branchings without progress that end a run
  static constexpr int kFocalPatience = 2000;

  struct AgentPath {
    PathLimits limits;
    TimedPath path;
  };
  using Conflicts = std::array<int, 3>;  // C4, T1, T2

  // Node of the conflict tree.
  struct Branch {
    std::vector<std::shared_ptr<const AgentPath>> agents;
    Conflicts conflicts{};
    double slowest_s = 0;
    double sum_s = 0;
    uint64_t limits_hash = 0;
  };
  // What may be done about a conflict: one of these, each a new limit of one agent.
  struct Limit {
    enum class Kind { kStage, kNode, kTime };
    Kind kind = Kind::kStage;
    size_t agent = 0;
    int stage_or_node = 0;
    PathVisit busy = {};
  };

  // One of the two runs.
  struct Run {
    double price_s = 0;  // that a path pays for a conflict with others
    double suboptimality = 1;
    int patience = 0;
    size_t solutions = 0;  // enough
  };

  // Paths that use stages and nodes.
  struct Usage {
    std::vector<int> stages;
    std::vector<std::vector<int>> nodes;  // by wave
  };

  std::optional<TimedPath> plan(size_t agent, const PathLimits& limits, const std::vector<double>& prices);
  void run_once(const Run& run);
  std::shared_ptr<Branch> root(const Run& run);
  std::shared_ptr<Branch> branch(const Branch& parent, const Limit& limit, const Run& run);
  // Counts conflicts, and says what may be done about the first.
  std::vector<Limit> examine(Branch& branch) const;
  void examine_stages(const Usage& usage, const Branch& branch, Conflicts& conflicts, std::vector<Limit>& limits) const;
  void examine_slots(const Usage& usage, const Branch& branch, Conflicts& conflicts, std::vector<Limit>& limits) const;
  void examine_times(const Branch& branch, Conflicts& conflicts, std::vector<Limit>& limits) const;
  void keep(const Branch& branch);

  Usage usage_of(const Branch& branch) const;
  void add(Usage& usage, size_t agent, const TimedPath& path, int sign) const;
  std::vector<int> stage_shares(const std::vector<int>& served) const;
  std::vector<double> prices(const Usage& others, size_t agent, double price_s) const;
  std::vector<size_t> fastest_first(const Branch& branch, std::vector<size_t> agents) const;
  int stage_of(int node) const { return stage_of_[static_cast<size_t>(node)]; }

  const PlanRequest& request_;
  BudgetMeter& meter_;
  std::vector<PathAgent> agents_;
  Collisions collisions_;
  PathSearch paths_;
  int length_;
  size_t waves_ = 0;
  std::vector<int> stage_of_;
  std::vector<std::vector<int>> capacity_;               // of nodes, by wave, in microbatches in flight
  std::vector<std::shared_ptr<const AgentPath>> alone_;  // paths without limits and prices
  Conflicts fewest_{};
  std::vector<std::vector<TimedPath>> kept_;
};

}  // namespace skippipe
