#include "schedule/pictures/explanation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "schedule/machine/simulator.h"

namespace skippipe {
namespace {

using Kind = CriticalPiece::Kind;

// Less is rounding.
constexpr double kLeastSaving = 1e-6;

void halve_delay(Link& link) {
  link.latency_s /= 2;
  link.overhead_s /= 2;
}

void double_bandwidth(Link& link) { link.bandwidth_bytes_per_s *= 2; }  // 0 stays infinite

struct LinkChange {
  const char* what;
  void (*apply)(Link&);
};
constexpr LinkChange kLinkChanges[] = {{"half the delay", halve_delay}, {"twice the bandwidth", double_bandwidth}};

class Changes {
 public:
  Changes(const Plan& plan, const Network& network, double reranked_s)
      : plan_(plan), network_(network), reranked_s_(reranked_s), visits_(plan.node_names.size(), 0) {
    for (const PlannedMicrobatch& microbatch : plan.microbatches)
      for (const PlannedVisit& visit : microbatch.visits) ++visits_[static_cast<size_t>(visit.node)];
  }

  // With ranks made anew: a ranked run repeats an any-slot run, from which ranks are taken, exactly.
  static std::optional<double> reranked_s(const Plan& plan, const Network& network) {
    Simulator simulator(network);
    const Simulation& simulation = simulator.run(plan, {.admission = Admission::kAnySlot});
    return simulation.deadlock ? std::nullopt : std::optional(simulation.iteration_s);
  }

  std::vector<ChangeEffect> run(const std::vector<CriticalPiece>& path) {
    for (int node = 0; node < plan_.node_count(); ++node)
      if (visits_[static_cast<size_t>(node)] > 0) try_node(node);
    try_links(path);
    try_regions();
    try_uplinks();
    for (int stage = 0; stage < plan_.stage_count(); ++stage) try_stage(stage);
    std::ranges::stable_sort(effects_, {}, &ChangeEffect::iteration_s);
    return std::move(effects_);
  }

 private:
  using LinkName = std::pair<int, int>;  // from, to

  const std::string& name(int node) const { return plan_.node_names[static_cast<size_t>(node)]; }
  const NetworkNode& node_of(int node) const { return network_.nodes[static_cast<size_t>(node)]; }

  void evaluate(std::string what, const Plan& plan, const Network& network) {
    const std::optional<double> seconds = reranked_s(plan, network);
    if (seconds && *seconds < reranked_s_ * (1 - kLeastSaving)) effects_.push_back({std::move(what), *seconds});
  }

  void try_node(int node) {
    Plan plan = plan_;
    ++plan.node_slots[static_cast<size_t>(node)];
    evaluate(fmt::format("one more slot on {}", name(node)), plan, network_);
    Network network = network_;
    NetworkNode& faster = network.nodes[static_cast<size_t>(node)];
    faster.forward_s /= 2;
    faster.step_s_per_byte /= 2;
    if (faster.loss_s) *faster.loss_s /= 2;
    evaluate(fmt::format("{} twice as fast", name(node)), plan_, network);
  }

  void try_link_changes(const std::string& where, const std::set<LinkName>& links) {
    for (const LinkChange& change : kLinkChanges) {
      Network network = network_;
      for (const auto& [from, to] : links) change.apply(network.link(from, to));
      evaluate(fmt::format("{} {}", change.what, where), plan_, network);
    }
  }

  void try_links(const std::vector<CriticalPiece>& path) {
    std::set<LinkName> links;
    for (const CriticalPiece& piece : path)
      if (piece.peer >= 0) links.emplace(piece.node, piece.peer);
    for (const auto& [from, to] : links)
      try_link_changes(fmt::format("from {} to {}", name(from), name(to)), {{from, to}});
  }

  // Links that activations or gradients take, both directions, by pair of regions that have names.
  void try_regions() {
    std::map<std::pair<std::string, std::string>, std::set<LinkName>> pairs;
    for (const auto& [from, to] : used_links()) {
      const auto regions = std::minmax(node_of(from).region, node_of(to).region);
      if (!regions.first.empty()) pairs[regions].emplace(from, to);
    }
    for (const auto& [regions, links] : pairs)
      try_link_changes(regions.first == regions.second
                           ? fmt::format("within {}", regions.first)
                           : fmt::format("between {} and {}", regions.first, regions.second),
                       links);
  }

  void try_twice_the_uplink(const std::string& where, const std::vector<int>& nodes) {
    Network network = network_;
    for (const int node : nodes) network.nodes[static_cast<size_t>(node)].uplink_bytes_per_s *= 2;
    evaluate(fmt::format("twice the uplink of {}", where), plan_, network);
  }

  // Of every node that sends over one; of those of a region together, as they often end in one line; and of all.
  void try_uplinks() {
    std::map<std::string, std::vector<int>> regions;
    std::vector<int> all;
    for (int node = 0; node < plan_.node_count(); ++node) {
      if (visits_[static_cast<size_t>(node)] == 0 || node_of(node).uplink_bytes_per_s == 0) continue;
      try_twice_the_uplink(name(node), {node});
      regions[node_of(node).region].push_back(node);
      all.push_back(node);
    }
    for (const auto& [region, nodes] : regions)
      if (!region.empty() && nodes.size() > 1) try_twice_the_uplink(fmt::format("every node of {}", region), nodes);
    if (all.size() > 1) try_twice_the_uplink("every node", all);
  }

  std::set<LinkName> used_links() const {
    std::set<LinkName> links;
    const auto both_ways = [&](int a, int b) {
      if (a == b) return;
      links.emplace(a, b);
      links.emplace(b, a);
    };
    for (const PlannedMicrobatch& microbatch : plan_.microbatches)
      for (size_t i = 0; i < microbatch.visits.size(); ++i)
        both_ways(microbatch.visits[i].node, microbatch.visits[(i + 1) % microbatch.visits.size()].node);
    for (const std::vector<int>& stage : plan_.stages)
      for (const int a : stage)
        for (const int b : stage) both_ways(a, b);
    return links;
  }

  void try_stage(int stage) {
    const std::vector<int>& replicas = plan_.stages[static_cast<size_t>(stage)];
    const int best = *std::ranges::min_element(replicas, {}, [&](int node) { return node_of(node).forward_s; });
    const int busiest = *std::ranges::max_element(replicas, {}, [&](int node) {
      return visits_[static_cast<size_t>(node)] * node_of(node).forward_s * (1 + node_of(node).backward_over_forward);
    });
    if (visits_[static_cast<size_t>(busiest)] < 2) return;
    const Network network = with_another(best);
    Plan plan = plan_;
    const int added = plan.node_count();
    plan.node_names.push_back(network.nodes.back().name);
    plan.node_slots.push_back(network.nodes.back().slots);
    plan.stages[static_cast<size_t>(stage)].push_back(added);
    for (PlannedMicrobatch& microbatch : plan.microbatches)
      for (PlannedVisit& visit : microbatch.visits)
        if (visit.node == busiest && visit.rank % 2 == 1) visit.node = added;
    evaluate(
        fmt::format("another node like {} in stage {}, for half the visits of {}", name(best), stage, name(busiest)),
        plan, network);
  }

  // A copy of the node as the last of the network.
  Network with_another(int node) const {
    const int count = network_.size();
    Network network;
    network.nodes = network_.nodes;
    network.nodes.push_back(node_of(node));
    network.links.resize(network.nodes.size() * network.nodes.size());
    for (int from = 0; from <= count; ++from)
      for (int to = 0; to <= count; ++to)
        if (from != to) network.link(from, to) = link_like(from == count ? node : from, to == count ? node : to);
    return network;
  }

  // Between a node and its copy, the fastest link that it has.
  Link link_like(int from, int to) const {
    if (from != to) return network_.link(from, to);
    const auto bytes = static_cast<double>(plan_.workload.activation_bytes);
    std::optional<Link> fastest;
    for (int other = 0; other < network_.size(); ++other) {
      if (other == from) continue;
      const Link& link = network_.link(from, other);
      if (!fastest || link.transfer_s(bytes) < fastest->transfer_s(bytes)) fastest = link;
    }
    return fastest.value_or(Link{});
  }

  const Plan& plan_;
  const Network& network_;
  const double reranked_s_;
  std::vector<int> visits_;  // per node
  std::vector<ChangeEffect> effects_;
};

struct Share {
  const char* name;
  std::vector<Kind> kinds;
};

double seconds_of(const std::vector<CriticalPiece>& path, const std::vector<Kind>& kinds) {
  double sum = 0;
  for (const CriticalPiece& piece : path)
    if (std::ranges::find(kinds, piece.kind) != kinds.end()) sum += piece.seconds();
  return sum;
}

// "61 % activations on the wire, 30 % computing, 9 % waiting in queues", the largest first.
std::string shares_text(const Explanation& explanation) {
  const std::vector<Share> shares = {{"activations on the wire", {Kind::kActivations}},
                                     {"computing", {Kind::kForward, Kind::kLoss, Kind::kBackward, Kind::kStep}},
                                     {"waiting in the nodes' queues", {Kind::kQueue, Kind::kTurn}},
                                     {"waiting for slots", {Kind::kSlot}},
                                     {"waiting for links", {Kind::kLink}},
                                     {"gradients on the wire", {Kind::kReduction, Kind::kNorm}}};
  std::vector<std::pair<double, const char*>> parts;
  for (const Share& share : shares) parts.emplace_back(seconds_of(explanation.path, share.kinds), share.name);
  std::ranges::stable_sort(parts, std::greater(), &std::pair<double, const char*>::first);
  std::string text;
  for (const auto& [seconds, name] : parts) {
    const double percent = explanation.iteration_s > 0 ? seconds / explanation.iteration_s * 100 : 0;
    if (percent >= 0.5) text += fmt::format("{}{:.0f} % {}", text.empty() ? "" : ", ", percent, name);
  }
  return text;
}

std::string changes_text(const Explanation& explanation, size_t most) {
  std::string text = "\n  what one change would save (paths kept, ranks made anew):\n";
  if (explanation.changes.empty()) return text + "    none of those tried saves anything\n";
  for (size_t i = 0; i < std::min(most, explanation.changes.size()); ++i) {
    const auto& [what, seconds] = explanation.changes[i];
    text += fmt::format("    {}: {:.4g} s instead of {:.4g} s, {:+.1f} %\n", what, seconds, explanation.reranked_s,
                        (seconds / explanation.reranked_s - 1) * 100);
  }
  return text;
}

}  // namespace

Explanation explain_plan(const Plan& plan, const Network& network) {
  Simulator simulator(network);
  SimulationRecord record;
  const Simulation& simulation = simulator.run(plan, {.record = &record});
  if (simulation.deadlock) throw PlanError("the plan deadlocks: {}", simulator.describe_deadlock());
  Explanation explanation{.path = critical_path(plan, record), .iteration_s = simulation.iteration_s};
  // Paths whose ranks suit another network may need them.
  explanation.reranked_s = Changes::reranked_s(plan, network).value_or(explanation.iteration_s);
  explanation.changes = Changes(plan, network, explanation.reranked_s).run(explanation.path);
  return explanation;
}

std::string explanation_text(const Plan& plan, const Explanation& explanation, size_t changes) {
  std::string text = fmt::format("  what bounds the iteration: of {:.4g} s, {}\n\n       from s       for s\n",
                                 explanation.iteration_s, shares_text(explanation));
  for (const CriticalPiece& piece : explanation.path)
    text += fmt::format("  {:>11.4f} {:>11.4f}  {}\n", piece.start_s, piece.seconds(), describe(piece, plan));
  if (std::abs(explanation.reranked_s - explanation.iteration_s) > kLeastSaving * explanation.iteration_s)
    text += fmt::format("\n  with the same paths and ranks made anew it takes {:.4g} s\n", explanation.reranked_s);
  return text + changes_text(explanation, changes);
}

}  // namespace skippipe
