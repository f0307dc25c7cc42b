#include "schedule/plan/validator.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <queue>
#include <set>

#include "base/error.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/stage_memory.h"

namespace skippipe {
namespace {

class Checker {
 public:
  explicit Checker(const Plan& plan) : plan_(plan) {}

  std::vector<Violation> run() {
    check_shape();
    if (!found_.empty()) return std::move(found_);
    check_starts();
    check_lengths();
    check_order();
    check_exposure();
    check_data();
    check_slots();
    check_ranks();
    if (found_.empty()) check_deadlock();  // needs sound ranks
    check_priorities();
    return std::move(found_);
  }

 private:
  template <typename... Args>
  void report(const char* rule, fmt::format_string<Args...> format, Args&&... args) {
    found_.push_back({rule, fmt::format(format, std::forward<Args>(args)...)});
  }

  int stage_of(const PlannedVisit& visit) const { return stage_of_[static_cast<size_t>(visit.node)]; }

  void check_shape() {
    const size_t nodes = plan_.node_names.size();
    const size_t stages = plan_.stages.size();
    if (plan_.node_slots.size() != nodes)
      report(kShapeRule, "{} nodes with {} slot counts", nodes, plan_.node_slots.size());
    if (stages == 0 || plan_.microbatches.empty()) report(kShapeRule, "a plan needs stages and microbatches");
    if (plan_.workload.stage_layers.size() != stages || plan_.workload.stage_gradient_bytes.size() != stages)
      report(kShapeRule, "{} stages, but layers of {} and gradient bytes of {}", stages,
             plan_.workload.stage_layers.size(), plan_.workload.stage_gradient_bytes.size());
    const size_t states = plan_.workload.stage_state_bytes.size(), slots = plan_.workload.stage_slot_bytes.size();
    if (states != slots || (slots != 0 && slots != stages))
      report(kShapeRule, "{} stages, but state bytes of {} and slot bytes of {}", stages, states, slots);
    stage_of_.assign(nodes, -1);
    for (size_t s = 0; s < plan_.workload.stage_layers.size(); ++s)
      if (const int layers = plan_.workload.stage_layers[s]; layers < (s == 0 ? 0 : 1))
        report(kShapeRule, "stage {} has {} layers, expected at least {}", s, layers, s == 0 ? 0 : 1);
    for (size_t s = 0; s < stages; ++s) {
      if (plan_.stages[s].empty()) report(kShapeRule, "stage {} has no node", s);
      for (const int node : plan_.stages[s]) {
        if (node < 0 || static_cast<size_t>(node) >= nodes) {
          report(kShapeRule, "stage {} names node {} of {}", s, node, nodes);
        } else if (int& stage = stage_of_[static_cast<size_t>(node)]; stage != -1) {
          report(kShapeRule, "node {} is in stages {} and {}", node, stage, s);
        } else {
          stage = static_cast<int>(s);
        }
      }
    }
    for (size_t m = 0; m < plan_.microbatches.size(); ++m) {
      if (plan_.microbatches[m].visits.empty()) report(kShapeRule, "microbatch {} has an empty path", m);
      for (const PlannedVisit& visit : plan_.microbatches[m].visits) {
        if (visit.node < 0 || static_cast<size_t>(visit.node) >= nodes) {
          report(kShapeRule, "microbatch {} visits node {} of {}", m, visit.node, nodes);
        } else if (stage_of(visit) < 0) {
          report(kShapeRule, "microbatch {} visits node {}, which is in no stage", m, visit.node);
        }
      }
    }
  }

  void check_starts() {
    for (size_t m = 0; m < plan_.microbatches.size(); ++m) {
      const PlannedVisit& first = plan_.microbatches[m].visits.front();
      if (stage_of(first) != 0)
        report(kPathStartRule, "microbatch {} starts at node {} of stage {}, expected a data node (stage 0)", m,
               first.node, stage_of(first));
    }
  }

  void check_lengths() {
    const int stages = plan_.stage_count();
    const int expected = stages - static_cast<int>(std::lround(plan_.rules.skip_ratio * stages));
    for (size_t m = 0; m < plan_.microbatches.size(); ++m) {
      const auto& visits = plan_.microbatches[m].visits;
      if (static_cast<int>(visits.size()) != expected)
        report(kPathStagesRule, "microbatch {} visits {} stages, expected {} of {} at skip ratio {}", m, visits.size(),
               expected, stages, plan_.rules.skip_ratio);
      std::set<int> seen;
      for (const PlannedVisit& visit : visits)
        if (!seen.insert(stage_of(visit)).second)
          report(kPathStagesRule, "microbatch {} visits stage {} twice", m, stage_of(visit));
    }
  }

  void check_order() {
    const PlanRules& rules = plan_.rules;
    for (size_t m = 0; m < plan_.microbatches.size(); ++m) {
      int furthest = 0;
      int behind = 0;
      for (const PlannedVisit& visit : plan_.microbatches[m].visits) {
        const int stage = stage_of(visit);
        if (stage > furthest + rules.max_jump)
          report(kPathOrderRule, "microbatch {} jumps from stage {} to {}, at most {} allowed", m, furthest, stage,
                 rules.max_jump);
        if (stage < furthest) {
          ++behind;
          if (furthest - stage > rules.max_swap_distance)
            report(kPathOrderRule, "microbatch {} goes from stage {} back to {}, at most {} behind allowed", m,
                   furthest, stage, rules.max_swap_distance);
        }
        furthest = std::max(furthest, stage);
      }
      if (behind > rules.max_swaps)
        report(kPathOrderRule, "microbatch {} makes {} swaps, at most {} allowed", m, behind, rules.max_swaps);
    }
  }

  // Whatever the rules allow, a stage that serves nobody is never trained: only its weights decay.
  void check_exposure() {
    if (plan_.stage_count() < 2) return;
    std::vector<int> served(plan_.stages.size(), 0);
    for (const PlannedMicrobatch& microbatch : plan_.microbatches)
      for (const PlannedVisit& visit : microbatch.visits) ++served[static_cast<size_t>(stage_of(visit))];
    const auto [low, high] = std::minmax_element(served.begin() + 1, served.end());
    if (*low == 0)
      report(kExposureRule,
             "stage {} is in the path of no microbatch and would never be trained, expected every stage in one: "
             "plan with a lower --skip or more --microbatches",
             low - served.begin());
    else if (plan_.rules.equal_exposure && *high - *low > 1)
      report(kExposureRule,
             "stage {} serves {} microbatches and stage {} serves {}, expected a difference of at most 1",
             low - served.begin(), *low, high - served.begin(), *high);
  }

  void check_data() {
    if (!plan_.rules.equal_data) return;
    std::map<int, int> started;
    for (const int node : plan_.stages[0]) started[node] = 0;
    for (const PlannedMicrobatch& microbatch : plan_.microbatches) ++started[microbatch.data_node()];
    const auto [low, high] =
        std::ranges::minmax_element(started, {}, [](const auto& node_and_count) { return node_and_count.second; });
    if (high->second - low->second > 1)
      report(kDataRule,
             "data node {} starts {} microbatches and data node {} starts {}, expected a difference of at most 1",
             low->first, low->second, high->first, high->second);
  }

  void check_slots() {
    for (size_t node = 0; node < plan_.node_slots.size(); ++node)
      if (plan_.node_slots[node] < 1)
        report(kSlotsRule, "node {} has {} slots, expected at least 1", node, plan_.node_slots[node]);
  }

  void check_ranks() {
    std::vector<std::vector<int>> visits(plan_.node_names.size()), gradients(plan_.node_names.size());
    for (const PlannedMicrobatch& microbatch : plan_.microbatches) {
      gradients[static_cast<size_t>(microbatch.data_node())].push_back(microbatch.loss_rank);
      for (const PlannedVisit& visit : microbatch.visits) {
        visits[static_cast<size_t>(visit.node)].push_back(visit.rank);
        gradients[static_cast<size_t>(visit.node)].push_back(visit.backward_rank);
      }
    }
    check_permutations("visits", visits);
    check_permutations("gradient passes", gradients);
  }

  void check_permutations(const char* what, std::vector<std::vector<int>>& ranks) {
    for (size_t node = 0; node < ranks.size(); ++node) {
      std::sort(ranks[node].begin(), ranks[node].end());
      for (size_t i = 0; i < ranks[node].size(); ++i) {
        if (ranks[node][i] == static_cast<int>(i)) continue;
        report(kRanksRule, "the {} {} of node {} are not ranked 0 to {}: {} stands where {} is expected",
               ranks[node].size(), what, node, ranks[node].size() - 1, ranks[node][i], i);
        break;
      }
    }
  }

  void check_priorities() {
    std::vector<std::set<int>> taken(plan_.node_names.size());
    const auto take = [&](const PlannedVisit& visit, int priority, size_t m) {
      if (!taken[static_cast<size_t>(visit.node)].insert(priority).second)
        report(kPrioritiesRule, "node {} has two tasks of priority {}, one of microbatch {}", visit.node, priority, m);
    };
    for (size_t m = 0; m < plan_.microbatches.size(); ++m) {
      const PlannedMicrobatch& microbatch = plan_.microbatches[m];
      take(microbatch.visits.front(), microbatch.loss_priority, m);
      for (const PlannedVisit& visit : microbatch.visits) {
        take(visit, visit.forward_priority, m);
        take(visit, visit.backward_priority, m);
      }
    }
  }

  // A microbatch's tasks in their order: forward along the path, loss, backward against it.
  struct Step {
    enum class Kind { kForward, kLoss, kBackward };
    Kind kind;
    const PlannedVisit* visit;
    int gradient_rank;  // of loss and backward
  };
  static size_t step_count(const PlannedMicrobatch& microbatch) { return 2 * microbatch.visits.size() + 1; }
  static Step step_of(const PlannedMicrobatch& microbatch, size_t index) {
    const auto& visits = microbatch.visits;
    if (index < visits.size()) return {Step::Kind::kForward, &visits[index], -1};
    if (index == visits.size()) return {Step::Kind::kLoss, &visits.front(), microbatch.loss_rank};
    const PlannedVisit& visit = visits[2 * visits.size() - index];
    return {Step::Kind::kBackward, &visit, visit.backward_rank};
  }

  // Lets microbatches advance in any order until nothing moves. What may run stays runnable when more has run, so the
  // end does not depend on the order: what is stuck here is stuck in every timing, and what is not can't get stuck.
  void check_deadlock() {
    const size_t count = plan_.microbatches.size();
    std::vector<int> ended(plan_.node_names.size(), 0), gradients(plan_.node_names.size(), 0);
    std::vector<std::vector<size_t>> waiting(plan_.node_names.size());
    std::vector<size_t> done(count, 0);  // steps
    std::queue<size_t> movable;
    for (size_t m = 0; m < count; ++m) movable.push(m);
    while (!movable.empty()) {
      const size_t m = movable.front();
      movable.pop();
      const PlannedMicrobatch& microbatch = plan_.microbatches[m];
      for (; done[m] < step_count(microbatch); ++done[m]) {
        const Step step = step_of(microbatch, done[m]);
        const auto node = static_cast<size_t>(step.visit->node);
        const bool forward = step.kind == Step::Kind::kForward;
        const bool may_run = forward ? ended[node] >= step.visit->rank - plan_.node_slots[node] + 1
                                     : gradients[node] == step.gradient_rank;
        if (!may_run) {
          waiting[node].push_back(m);
          break;
        }
        if (forward) continue;
        ++gradients[node];
        if (step.kind == Step::Kind::kBackward) ++ended[node];
        for (const size_t other : waiting[node]) movable.push(other);
        waiting[node].clear();
      }
    }
    for (size_t m = 0; m < count; ++m)
      if (done[m] < step_count(plan_.microbatches[m]))
        report_stuck(m, step_of(plan_.microbatches[m], done[m]), ended, gradients);
  }

  void report_stuck(size_t m, const Step& step, const std::vector<int>& ended, const std::vector<int>& gradients) {
    const auto node = static_cast<size_t>(step.visit->node);
    const int slots = plan_.node_slots[node];
    if (step.kind == Step::Kind::kForward)
      report(kDeadlockRule,
             "microbatch {} never enters node {}: its rank {} needs {} ended visits ({} slots), {} can end", m, node,
             step.visit->rank, step.visit->rank - slots + 1, slots, ended[node]);
    else
      report(kDeadlockRule,
             "the {} of microbatch {} never runs on node {}: its rank {} needs as many before, {} can run",
             step.kind == Step::Kind::kLoss ? "loss" : "backward", m, node, step.gradient_rank, gradients[node]);
  }

  const Plan& plan_;
  std::vector<int> stage_of_;
  std::vector<Violation> found_;
};

void check_memory(const Plan& plan, const NetworkNode& node, size_t index, size_t stage,
                  std::vector<Violation>& found) {
  const double slot_bytes = static_cast<double>(plan.workload.stage_slot_bytes[stage]);
  const double taken_bytes =
      static_cast<double>(state_bytes(node, plan.workload, stage)) + plan.node_slots[index] * slot_bytes;
  if (plan.node_slots[index] > slots_in_memory(node, plan.workload, stage))
    found.push_back(
        {kSlotsRule,
         fmt::format("node {} has {} slots in the plan: stage {} then takes {:.0f} bytes, the node "
                     "has {} of its {} for it",
                     index, plan.node_slots[index], stage, taken_bytes, room_bytes(node), node.memory_bytes)});
}

}  // namespace

std::vector<Violation> validate(const Plan& plan) { return Checker(plan).run(); }

std::vector<Violation> validate(const Plan& plan, const Network& network) {
  const std::vector<Violation> of_plan = validate(plan);
  std::vector<Violation> found;  // of the network first: what else is wrong may follow from it
  if (plan.node_names.size() != network.nodes.size()) {
    found.push_back({kNetworkRule, fmt::format("the plan is for {} nodes, the network has {}", plan.node_names.size(),
                                               network.nodes.size())});
    found.insert(found.end(), of_plan.begin(), of_plan.end());
    return found;
  }
  const bool sound =
      std::none_of(of_plan.begin(), of_plan.end(), [](const Violation& v) { return v.rule == kShapeRule; });
  const std::vector<int> stage_of = plan.stage_of_nodes();
  for (size_t i = 0; i < network.nodes.size(); ++i) {
    const NetworkNode& node = network.nodes[i];
    if (plan.node_names[i] != node.name)
      found.push_back({kNetworkRule, fmt::format("node {} is '{}' in the plan and '{}' in the network", i,
                                                 plan.node_names[i], node.name)});
    if (!sound) continue;
    const bool from_memory = memory_decides(node, plan.workload) && stage_of[i] >= 0;
    if (from_memory) check_memory(plan, node, i, static_cast<size_t>(stage_of[i]), found);
    const bool as_told =
        from_memory ? node.slots_from_memory || plan.node_slots[i] <= node.slots : plan.node_slots[i] == node.slots;
    if (!as_told)
      found.push_back({kSlotsRule, fmt::format("node {} has {} slots in the plan and {} in the network", i,
                                               plan.node_slots[i], node.slots)});
  }
  found.insert(found.end(), of_plan.begin(), of_plan.end());
  return found;
}

void require_valid(const std::vector<Violation>& violations, const std::string& plan_name) {
  if (violations.empty()) return;
  const std::string others =
      violations.size() > 1 ? fmt::format(" ({} more violations)", violations.size() - 1) : std::string();
  throw PlanError("{} {}: {}{}", plan_name, broken(violations.front().rule), violations.front().what, others);
}

}  // namespace skippipe
