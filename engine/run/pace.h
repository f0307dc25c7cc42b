// How fast a run goes, held against its plan: the sentences that its progress and its report share.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"

namespace skippipe {

// What a plan says of an iteration of a long run, or what one took.
struct IterationPace {
  double seconds = 0;
  std::vector<double> busy_s;  // by node: computing; empty: not known
};

struct PaceFindings {
  struct SlowNode {
    int node = 0;
    double factor = 1;  // seconds of computing over those planned, median
  };
  double measured_s = 0;        // of an iteration, median
  std::vector<SlowNode> nodes;  // that surely compute slower than planned, the slowest first
  bool waits = false;           // iterations surely take longer, though no node computes slower
};

// Iterations that it takes to be sure.
inline constexpr size_t kSureIterations = 12;

// Of a plan whose nodes are those of the network.
IterationPace planned_pace(const Plan& plan, const Network& network);

// Sure is what three quarters of the iterations show: half as much again as planned, and enough for the iteration to
// feel it. Nothing: fewer than kSureIterations.
std::optional<PaceFindings> find_pace(const IterationPace& planned, std::span<const IterationPace> iterations);

// "an iteration takes 0.153 s, planned 0.146 s (+4.8 %)"
std::string describe_pace(const PaceFindings& findings, const IterationPace& planned);
// What slows the run, a sentence each: "node-2 computes 5.0 x slower than planned".
std::vector<std::string> describe_causes(const PaceFindings& findings, const std::vector<std::string>& node_names);

// Watches a run: says how it compares with its plan once that is sure, and each cause when it is first seen.
class PaceWatch {
 public:
  PaceWatch(const Plan& plan, const Network& network);
  // The next iteration of the run. What is to be said now, a sentence each.
  std::vector<std::string> add(IterationPace iteration);

 private:
  const IterationPace planned_;
  const std::vector<std::string> node_names_;
  bool is_first_ = true;
  std::vector<IterationPace> recent_;  // since the pace was looked at
  bool pace_told_ = false, waits_told_ = false;
  std::set<int> slow_told_;
};

}  // namespace skippipe
