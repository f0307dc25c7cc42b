#include "schedule/search/replanning.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "schedule/machine/ranking.h"
#include "schedule/machine/simulator.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "schedule/search/capacity.h"
#include "schedule/search/evaluator.h"
#include "schedule/search/moves.h"
#include "schedule/search/paths.h"
#include "schedule/search/planning.h"
#include "schedule/search/request_values.h"

namespace skippipe {
namespace {

constexpr int kNone = -1;  // of nodes and stages
// Simulated by the default search, forward and backward: at 130 to 170 ns each a third of a second.
constexpr int64_t kSearchedVisits = 2'000'000;

using Names = std::map<std::string, int>;  // to indices

Names index_names(const std::vector<std::string>& names, const char* where) {
  Names indices;
  for (const std::string& name : names)
    if (!indices.try_emplace(name, static_cast<int>(indices.size())).second)
      throw ConfigError("{}: two nodes are named '{}'", where, name);
  return indices;
}

std::vector<std::string> names_of(const Network& network) {
  std::vector<std::string> names;
  for (const NetworkNode& node : network.nodes) names.push_back(node.name);
  return names;
}

int find(const Names& names, const std::string& name) {
  const auto found = names.find(name);
  return found == names.end() ? kNone : found->second;
}

// Who is there, and where, before any stage is filled.
struct Roll {
  std::vector<bool> is_there;           // by node of the network
  std::vector<int> stage_of;            // by node of the network: kept or told; kNone
  std::vector<int> told;                // nodes whose stage is not the old one
  std::vector<int> index_of;            // by node of the old plan: in the network; kNone: gone
  std::vector<std::vector<int>> lacks;  // by stage: nodes of the old plan that it has no longer
};

void check_options(const Plan& old, const Names& names, const Names& old_names, const ReplanOptions& options) {
  const Names gone = index_names(options.gone, "gone");
  for (const auto& [name, _] : gone)
    if (find(names, name) == kNone && find(old_names, name) == kNone)
      throw ConfigError("gone: '{}' is a node neither of the plan nor of the network", name);
  for (const auto& [name, stage] : options.places) {
    if (find(names, name) == kNone) throw ConfigError("place of '{}': the network has no such node", name);
    if (gone.contains(name)) throw ConfigError("place of '{}': the node is gone", name);
    if (stage < 0 || stage >= old.stage_count())
      throw ConfigError("place of '{}': found stage {}, expected 0 to {}", name, stage, old.stage_count() - 1);
  }
}

Roll call_roll(const Plan& old, const Network& network, const ReplanOptions& options) {
  const Names names = index_names(names_of(network), "network"), old_names = index_names(old.node_names, "plan");
  check_options(old, names, old_names, options);
  Roll roll = {.is_there = std::vector<bool>(network.nodes.size(), true),
               .stage_of = std::vector<int>(network.nodes.size(), kNone),
               .told = {},
               .index_of = {},
               .lacks = std::vector<std::vector<int>>(old.stages.size())};
  for (const std::string& name : options.gone)
    if (const int node = find(names, name); node != kNone) roll.is_there[static_cast<size_t>(node)] = false;
  const std::vector<int> old_stage_of = old.stage_of_nodes();
  for (size_t i = 0; i < old.node_names.size(); ++i) {
    const int node = find(names, old.node_names[i]);
    const bool survives = node != kNone && roll.is_there[static_cast<size_t>(node)];
    roll.index_of.push_back(survives ? node : kNone);
    if (survives) roll.stage_of[static_cast<size_t>(node)] = old_stage_of[i];
  }
  for (const auto& [name, stage] : options.places) {
    const int node = find(names, name);
    if (std::exchange(roll.stage_of[static_cast<size_t>(node)], stage) != stage) roll.told.push_back(node);
  }
  for (size_t i = 0; i < old.node_names.size(); ++i) {
    const int stage = old_stage_of[i], node = roll.index_of[i];
    if (stage != kNone && (node == kNone || roll.stage_of[static_cast<size_t>(node)] != stage))
      roll.lacks[static_cast<size_t>(stage)].push_back(static_cast<int>(i));
  }
  return roll;
}

// The old plan's paths on other replicas of the same stages.
class Repair {
 public:
  Repair(const PlanRequest& request, const Plan& old, Roll roll)
      : request_(request), old_(old), roll_(std::move(roll)), simulator_(request.network), plan_(old) {
    plan_.method = "joint";
    plan_.network.clear();
    plan_.seed = request.seed;
    plan_.node_names = names_of(request.network);
    assign_priorities(plan_);
    begin();
  }

  // What can't be, if anything.
  std::optional<PlanResult> run(bool may_move) {
    if (auto infeasible = fill_stages(may_move)) return infeasible;
    place_visits(now_);
    for (const int node : roll_.told) take_share(now_, node);
    keep_data_equal(now_);
    if (cost(now_).unfinished > 0) untangle();
    join_spares();
    return std::nullopt;
  }

  const std::vector<std::vector<int>>& stages() const { return now_.stages; }

  // Once every node has room for its stage.
  Plan plan() {
    take_paths(now_, plan_);
    SKP_CHECK(assign_slots(request_, plan_) && complete_plan(plan_, simulator_), "{}", simulator_.describe_deadlock());
    return plan_;
  }

 private:
  void begin() {
    now_.stages.resize(old_.stages.size());
    for (size_t node = 0; node < roll_.stage_of.size(); ++node)
      if (const int stage = roll_.stage_of[node]; stage != kNone)
        now_.stages[static_cast<size_t>(stage)].push_back(static_cast<int>(node));
    now_.length = static_cast<int>(old_.microbatches.front().visits.size());
    const std::vector<int> old_stage_of = old_.stage_of_nodes();
    for (const PlannedMicrobatch& microbatch : old_.microbatches)
      for (const PlannedVisit& visit : microbatch.visits) {
        const int stage = old_stage_of[static_cast<size_t>(visit.node)];
        const int node = roll_.index_of[static_cast<size_t>(visit.node)];
        visited_.push_back(stage);
        now_.nodes.push_back(node != kNone && roll_.stage_of[static_cast<size_t>(node)] == stage ? node : kNone);
      }
  }

  static std::vector<int>& replicas_of(Candidate& draft, int stage) { return draft.stages[static_cast<size_t>(stage)]; }

  // The stage of each node in a draft.
  std::vector<int> stage_of_nodes(const Candidate& draft) const {
    std::vector<int> stage_of(request_.network.nodes.size(), kNone);
    for (size_t stage = 0; stage < draft.stages.size(); ++stage)
      for (const int node : draft.stages[stage]) stage_of[static_cast<size_t>(node)] = static_cast<int>(stage);
    return stage_of;
  }

  std::vector<int> spares(const Candidate& draft) const {
    const std::vector<int> stage_of = stage_of_nodes(draft);
    std::vector<int> found;
    for (size_t node = 0; node < stage_of.size(); ++node)
      if (roll_.is_there[node] && stage_of[node] == kNone) found.push_back(static_cast<int>(node));
    return found;
  }

  // Empty stages, those first that need most memory: whichever node can hold one can hold the later ones.
  std::vector<int> empty_stages(const Candidate& draft) const {
    std::vector<int> empty;
    for (size_t stage = 0; stage < draft.stages.size(); ++stage)
      if (draft.stages[stage].empty()) empty.push_back(static_cast<int>(stage));
    const Workload& workload = request_.workload;
    if (workload.stage_slot_bytes.empty()) return empty;
    const auto need = [&](int stage) {
      return workload.stage_state_bytes[static_cast<size_t>(stage)] +
             workload.stage_slot_bytes[static_cast<size_t>(stage)];
    };
    std::ranges::stable_sort(empty, std::ranges::greater(), need);
    return empty;
  }

  // The nodes that may fill an empty stage.
  std::vector<int> fillers(const Candidate& draft, int stage, bool may_move) const {
    const auto fits = [&](int node) { return slots_in_stage(request_, node, stage) > 0; };
    std::vector<int> found = spares(draft);
    std::erase_if(found, [&](int node) { return !fits(node); });
    if (!found.empty() || !may_move) return found;
    size_t most = 2;
    for (const std::vector<int>& replicas : draft.stages) {
      if (replicas.size() < most || std::ranges::none_of(replicas, fits)) continue;
      if (replicas.size() > most) found.clear();
      most = replicas.size();
      std::ranges::copy_if(replicas, std::back_inserter(found), fits);
    }
    return found;
  }

  std::optional<PlanResult> fill_stages(bool may_move) {
    for (const int stage : empty_stages(now_)) {
      const std::vector<int> candidates = fillers(now_, stage, may_move);
      if (candidates.empty()) return nobody_left(stage, may_move);
      std::optional<Candidate> best;
      Cost best_cost;
      for (const int node : candidates) {
        Candidate trial = now_;
        enter(trial, node, stage);
        const Cost found = cost_when_filled(trial, may_move);
        if (best && best_cost <= found) continue;
        best_cost = found;
        best = std::move(trial);
      }
      now_ = *std::move(best);
    }
    return std::nullopt;
  }

  // With any nodes in the stages that are still empty.
  Cost cost_when_filled(Candidate draft, bool may_move) {
    for (const int stage : empty_stages(draft)) {
      const std::vector<int> found = fillers(draft, stage, may_move);
      if (found.empty()) return Cost::infinite();
      enter(draft, found.front(), stage);
    }
    return cost(draft);
  }

  PlanResult nobody_left(int stage, bool may_move) const {
    std::vector<std::string> names;
    for (const int node : roll_.lacks[static_cast<size_t>(stage)])
      names.push_back(fmt::format("'{}'", old_.node_names[static_cast<size_t>(node)]));
    return {
        .rule = kStageNodesRule,
        .why = fmt::format("stage {} has no node left without {}, and no {} can hold it", stage, fmt::join(names, ", "),
                           may_move ? "node that joins or that another stage can spare" : "node that joins")};
  }

  // From wherever it was into a stage.
  void enter(Candidate& draft, int node, int stage) const {
    if (const int from = stage_of_nodes(draft)[static_cast<size_t>(node)]; from != kNone) {
      std::erase(replicas_of(draft, from), node);
      std::ranges::replace(draft.nodes, node, kNone);
    }
    std::vector<int>& replicas = replicas_of(draft, stage);
    replicas.insert(std::ranges::lower_bound(replicas, node), node);
    place_visits(draft);
    take_share(draft, node);
    keep_data_equal(draft);
  }

  void keep_data_equal(Candidate& draft) const {
    if (!request_.rules.equal_data || draft.stages[0].empty()) return;
    Random random(request_.seed, {6});
    equalize_data(draft, random);
  }

  // Of one visit, forward and backward.
  double visit_s(int node, int stage) const {
    const auto s = static_cast<size_t>(stage);
    return forward_s(request_, node, s) + backward_s(request_, node, s) + (stage == 0 ? loss_s(request_, node) : 0);
  }

  // Seconds of messages between a visit on `node` and those before and after it, on the way there and back. The last
  // one's are to the data node.
  double detour_s(const Candidate& draft, size_t visit, int node) const {
    const auto length = static_cast<size_t>(draft.length);
    const size_t row = visit / length * length, place = visit % length;
    const size_t before = row + (place + length - 1) % length, after = row + (place + 1) % length;
    double seconds = 0;
    if (length > 1 && draft.nodes[before] != kNone) seconds += round_trip_s(request_, draft.nodes[before], node);
    if (length > 2 && draft.nodes[after] != kNone) seconds += round_trip_s(request_, draft.nodes[after], node);
    return seconds;
  }

  // Visits without a node go where load and detour are least together, unless their stage is empty.
  void place_visits(Candidate& draft) const {
    std::vector<double> load_s(request_.network.nodes.size(), 0);
    for (size_t visit = 0; visit < visited_.size(); ++visit)
      if (const int node = draft.nodes[visit]; node != kNone)
        load_s[static_cast<size_t>(node)] += visit_s(node, visited_[visit]);
    for (size_t visit = 0; visit < visited_.size(); ++visit) {
      const int stage = visited_[visit];
      const std::vector<int>& replicas = replicas_of(draft, stage);
      if (draft.nodes[visit] != kNone || replicas.empty()) continue;
      const auto seconds = [&](int node) {
        return load_s[static_cast<size_t>(node)] + visit_s(node, stage) + detour_s(draft, visit, node);
      };
      const int best = *std::ranges::min_element(replicas, {}, seconds);
      draft.nodes[visit] = best;
      load_s[static_cast<size_t>(best)] += visit_s(best, stage);
    }
  }

  // A node takes visits from the busiest of its replicas, each time the one whose detour becomes shortest, while that
  // leaves it less busy than the other was.
  void take_share(Candidate& draft, int node) const {
    struct Replica {
      double visit_s;
      std::vector<std::pair<double, size_t>> visits;  // by what their detours change, the best last

      double load_s() const { return visit_s * static_cast<double>(visits.size()); }
    };
    const int stage = stage_of_nodes(draft)[static_cast<size_t>(node)];
    std::map<int, Replica> replicas;
    for (const int replica : replicas_of(draft, stage)) replicas[replica].visit_s = visit_s(replica, stage);
    for (size_t visit = 0; visit < visited_.size(); ++visit)
      if (visited_[visit] == stage && draft.nodes[visit] != kNone) {
        const int from = draft.nodes[visit];
        replicas[from].visits.emplace_back(detour_s(draft, visit, from) - detour_s(draft, visit, node), visit);
      }
    for (auto& [_, replica] : replicas) std::ranges::stable_sort(replica.visits);
    Replica& own = replicas[node];
    for (;;) {
      Replica& busiest =
          std::ranges::max_element(replicas, {}, [](const auto& r) { return r.second.load_s(); })->second;
      if (own.load_s() + own.visit_s >= busiest.load_s()) return;
      draft.nodes[busiest.visits.back().second] = node;
      own.visits.push_back(busiest.visits.back());
      busiest.visits.pop_back();
    }
  }

  // Ascending paths never deadlock, and keep C2 to C4.
  void untangle() {
    const auto length = static_cast<size_t>(now_.length);
    std::vector<std::pair<int, int>> row;  // stages and nodes
    for (size_t first = 0; first < visited_.size(); first += length) {
      row.clear();
      for (size_t visit = first; visit < first + length; ++visit) row.emplace_back(visited_[visit], now_.nodes[visit]);
      std::ranges::sort(row);
      for (size_t i = 0; i < length; ++i) std::tie(visited_[first + i], now_.nodes[first + i]) = row[i];
    }
  }

  // A node that makes nothing slower is used: its stage then survives one loss more.
  void join_spares() {
    std::vector<int> waiting = spares(now_);
    std::ranges::stable_sort(waiting, {},
                             [&](int node) { return request_.network.nodes[static_cast<size_t>(node)].forward_s; });
    // One may only help once another is there.
    while (std::erase_if(waiting, [&](int node) { return join(node); }) > 0) {
    }
  }

  bool join(int node) {
    std::optional<Candidate> best;
    std::pair<Cost, size_t> best_cost = {cost(now_), std::numeric_limits<size_t>::max()};
    for (int stage = 0; stage < old_.stage_count(); ++stage) {
      Candidate trial = now_;
      enter(trial, node, stage);
      // The old plan may have been told of other limits: what it has may stay.
      if (count_misfits(request_, replicas_of(trial, stage), stage) >
          count_misfits(request_, replicas_of(now_, stage), stage))
        continue;
      const std::pair<Cost, size_t> found = {cost(trial), replicas_of(trial, stage).size()};
      if (found >= best_cost) continue;
      best_cost = found;
      best = std::move(trial);
    }
    if (best) now_ = *std::move(best);
    return best.has_value();
  }

  // Of a draft without empty stages.
  Cost cost(const Candidate& draft) {
    take_paths(draft, plan_);
    if (!assign_slots(request_, plan_)) return Cost::infinite();
    const Simulation& simulation = simulator_.run(plan_, {.admission = Admission::kAnySlot});
    return {.unfinished = simulation.deadlock ? simulation.unfinished_tasks : 0, .seconds = simulation.iteration_s};
  }

  const PlanRequest& request_;
  const Plan& old_;
  const Roll roll_;
  Simulator simulator_;
  Plan plan_;                 // all but stages, visited nodes and what follows from them
  std::vector<int> visited_;  // stages, in the order of now_.nodes
  Candidate now_;             // kNone: a visit without a node
};

}  // namespace

std::vector<int> nodes_left(const Plan& old, const Network& network, const std::vector<std::string>& gone) {
  check_options(old, index_names(names_of(network), "network"), index_names(old.node_names, "plan"), {.gone = gone});
  std::vector<int> left;
  for (int node = 0; node < network.size(); ++node)
    if (std::ranges::find(gone, network.nodes[static_cast<size_t>(node)].name) == gone.end()) left.push_back(node);
  return left;
}

PlanRequest request_of(const Plan& plan, const Network& network) {
  PlanRequest request;
  request.network = network;
  request.rules = plan.rules;
  request.workload = plan.workload;
  request.stages = plan.stages;
  request.microbatches = static_cast<int>(plan.microbatches.size());
  request.seed = plan.seed;
  return request;
}

PlanResult replan(const Plan& old, const Network& network, const ReplanOptions& options) {
  require_valid(validate(old), "the plan to begin from");
  PlanRequest request = request_of(old, network);
  request.seed = options.seed;
  request.budget = options.budget.value_or(SearchBudget{.evaluations = evaluations_of(request, kSearchedVisits)});
  check_values(request);
  request.max_replica_delay_s = default_replica_delay_s(network, request.workload);  // of nodes that join
  Roll roll = call_roll(old, network, options);
  std::vector<int> told;
  const Names names = index_names(names_of(network), "network");
  for (const auto& [name, stage] : options.places) told.push_back(find(names, name));
  Repair repair(request, old, std::move(roll));
  if (auto infeasible = repair.run(options.may_move)) return *std::move(infeasible);
  request.max_replica_delay_s = std::numeric_limits<double>::infinity();
  request.stages = repair.stages();
  if (auto infeasible = check_capacity(request)) return *std::move(infeasible);
  Plan plan = repair.plan();
  if (request.budget.evaluations > 0 || request.budget.seconds > 0) {
    request.start = plan;
    PlanResult searched = make_planner("joint")->plan(request);
    if (searched.plan && searched.plan->predicted.iteration_s < plan.predicted.iteration_s)
      plan = *std::move(searched.plan);
  }
  leave_out_idle(request, plan, told);
  return {.plan = std::move(plan)};
}

PlanChange compare_plans(const Plan& before, const Plan& after) {
  const auto visits_by_node = [](const Plan& plan) {
    std::map<std::string, int> visits;
    for (const PlannedMicrobatch& microbatch : plan.microbatches)
      for (const PlannedVisit& visit : microbatch.visits) ++visits[plan.node_names[static_cast<size_t>(visit.node)]];
    return visits;
  };
  const auto stage_by_node = [](const Plan& plan) {
    std::map<std::string, int> stages;
    const std::vector<int> stage_of = plan.stage_of_nodes();
    for (size_t node = 0; node < stage_of.size(); ++node) stages[plan.node_names[node]] = stage_of[node];
    return stages;
  };
  PlanChange change;
  std::map<std::string, int> old_stages = stage_by_node(before), stages = stage_by_node(after);
  for (const auto& [name, from] : old_stages)
    if (from != kNone && (!stages.contains(name) || stages[name] == kNone))
      change.gone.push_back({.name = name, .from = from});
  for (const auto& [name, to] : stages) {
    const int from = old_stages.contains(name) ? old_stages[name] : kNone;
    if (from == kNone && to == kNone) change.unused.push_back(name);
    if (from == kNone && to != kNone) change.joined.push_back({.name = name, .to = to});
    if (from != kNone && to != kNone && from != to) change.moved.push_back({.name = name, .from = from, .to = to});
  }
  std::map<std::string, int> old_visits = visits_by_node(before);
  for (const auto& [name, count] : visits_by_node(after)) {
    change.visits += count;
    change.moved_visits += std::max(0, count - old_visits[name]);
  }
  return change;
}

}  // namespace skippipe
