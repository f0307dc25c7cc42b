#include "engine/run/pace.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "schedule/machine/cost_model.h"

namespace skippipe {
namespace {

constexpr double kSlow = 1.5;
constexpr double kFeltShare = 0.05;  // of the planned iteration
constexpr size_t kNamedNodes = 3;

struct Quartiles {
  double low = 0, median = 0;
};

Quartiles quartiles_of(std::vector<double> values) {
  std::ranges::sort(values);
  return {values[values.size() / 4], values[values.size() / 2]};
}

// Of what each iteration took of something.
template <typename Seconds>
Quartiles quartiles(std::span<const IterationPace> iterations, Seconds seconds) {
  std::vector<double> values;
  for (const IterationPace& iteration : iterations) values.push_back(seconds(iteration));
  return quartiles_of(std::move(values));
}

}  // namespace

IterationPace planned_pace(const Plan& plan, const Network& network) {
  IterationPace pace{plan.predicted.steady_iteration_s, std::vector<double>(network.nodes.size(), 0.0)};
  const std::vector<int> stages = plan.stage_of_nodes();
  const auto seconds_of = [&](int node) {
    const auto index = static_cast<size_t>(node);
    return task_seconds(network.nodes[index], plan.workload, static_cast<size_t>(stages[index]));
  };
  for (int node = 0; node < plan.node_count(); ++node)
    if (stages[static_cast<size_t>(node)] >= 0) pace.busy_s[static_cast<size_t>(node)] = seconds_of(node).step_s;
  for (const PlannedMicrobatch& microbatch : plan.microbatches) {
    for (const PlannedVisit& visit : microbatch.visits) {
      const TaskSeconds tasks = seconds_of(visit.node);
      pace.busy_s[static_cast<size_t>(visit.node)] += tasks.forward_s + tasks.backward_s;
    }
    pace.busy_s[static_cast<size_t>(microbatch.data_node())] += seconds_of(microbatch.data_node()).loss_s;
  }
  return pace;
}

std::optional<PaceFindings> find_pace(const IterationPace& planned, std::span<const IterationPace> iterations) {
  if (iterations.size() < kSureIterations) return std::nullopt;
  const size_t nodes = planned.busy_s.size();
  const Quartiles seconds = quartiles(iterations, [](const IterationPace& i) { return i.seconds; });
  PaceFindings findings{.measured_s = seconds.median, .nodes = {}};
  const bool all_known =
      std::ranges::all_of(iterations, [&](const IterationPace& i) { return i.busy_s.size() == nodes; });
  for (size_t node = 0; all_known && node < nodes; ++node) {
    const double planned_s = planned.busy_s[node];
    const Quartiles busy = quartiles(iterations, [&](const IterationPace& i) { return i.busy_s[node]; });
    if (planned_s > 0 && busy.low >= kSlow * planned_s && busy.low - planned_s >= kFeltShare * planned.seconds)
      findings.nodes.push_back({static_cast<int>(node), busy.median / planned_s});
  }
  std::ranges::stable_sort(findings.nodes, std::ranges::greater{}, &PaceFindings::SlowNode::factor);
  findings.waits = all_known && findings.nodes.empty() && planned.seconds > 0 && seconds.low >= kSlow * planned.seconds;
  return findings;
}

std::string describe_pace(const PaceFindings& findings, const IterationPace& planned) {
  const std::string difference =
      planned.seconds > 0 ? fmt::format(" ({:+.1f} %)", (findings.measured_s / planned.seconds - 1) * 100) : "";
  return fmt::format("an iteration takes {:.4g} s, planned {:.4g} s{}", findings.measured_s, planned.seconds,
                     difference);
}

std::vector<std::string> describe_causes(const PaceFindings& findings, const std::vector<std::string>& node_names) {
  std::vector<std::string> causes;
  const auto& slow = findings.nodes;
  if (slow.size() == node_names.size() && slow.size() > 1) {
    causes.push_back(
        fmt::format("all nodes compute {:.1f} to {:.1f} x slower than planned: something else keeps them busy, or they "
                    "should be probed again",
                    slow.back().factor, slow.front().factor));
    return causes;
  }
  for (size_t i = 0; i < std::min(slow.size(), kNamedNodes); ++i)
    causes.push_back(fmt::format("{} computes {:.1f} x slower than planned",
                                 node_names[static_cast<size_t>(slow[i].node)], slow[i].factor));
  if (slow.size() > kNamedNodes)
    causes.push_back(fmt::format("{} more compute slower than planned", slow.size() - kNamedNodes));
  if (findings.waits)
    causes.emplace_back(
        "no node computes slower than planned: the time goes to waiting for messages; --trace records for which");
  return causes;
}

PaceWatch::PaceWatch(const Plan& plan, const Network& network)
    : planned_(planned_pace(plan, network)), node_names_(plan.node_names) {}

std::vector<std::string> PaceWatch::add(IterationPace iteration) {
  if (std::exchange(is_first_, false)) return {};  // it starts cold
  recent_.push_back(std::move(iteration));
  std::optional<PaceFindings> found = find_pace(planned_, recent_);
  if (!found) return {};
  recent_.clear();
  std::vector<std::string> news;
  if (!std::exchange(pace_told_, true)) news.push_back(describe_pace(*found, planned_));
  std::erase_if(found->nodes, [&](const PaceFindings::SlowNode& slow) { return !slow_told_.insert(slow.node).second; });
  found->waits = found->waits && !std::exchange(waits_told_, true);
  for (std::string& cause : describe_causes(*found, node_names_)) news.push_back(std::move(cause));
  return news;
}

}  // namespace skippipe
