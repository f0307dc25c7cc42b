// Benchmarks of schedule/: nanoseconds per node-machine event, evaluations per second of the planners' objective, and
// allocations on both; and how long re-planning takes. Verifies before it times; prints the machine, the command,
// median and spread.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "schedule/machine/simulator.h"
#include "schedule/plan/network_generator.h"
#include "schedule/plan/validator.h"
#include "schedule/search/evaluator.h"
#include "schedule/search/moves.h"
#include "schedule/search/planner.h"
#include "schedule/search/replanning.h"
#include "tests/schedule/counted_new.h"

namespace skippipe {
namespace {

constexpr int kNodes = 20;
constexpr int kStages = 6;
constexpr int kMicrobatches = 30;
constexpr int kRepeats = 21;
constexpr int kEvaluationsPerRepeat = 1000;

Network make_network() {
  Random random(1);
  Network network;
  for (int i = 0; i < kNodes; ++i) {
    NetworkNode& node = network.nodes.emplace_back();
    node.name = fmt::format("node-{}", i);
    node.forward_s = random.uniform(0.3, 0.6);
  }
  for (int i = 0; i < kNodes * kNodes; ++i)
    network.links.push_back({.latency_s = random.uniform(0.01, 0.2),
                             .bandwidth_bytes_per_s = random.uniform(1e7, 1e8),
                             .overhead_s = 0.001});
  return network;
}

PlanRequest make_request(const Network& network) {
  PlanRequest request;
  request.network = network;
  request.rules.skip_ratio = 1.0 / 3;
  request.workload.activation_bytes = 1 << 24;
  request.workload.stage_layers.assign(kStages, 1);
  request.workload.stage_gradient_bytes.assign(kStages, 1 << 26);
  request.microbatches = kMicrobatches;
  request.nodes_per_stage = {5, 3, 3, 3, 3, 3};
  request.budget.evaluations = 200;
  return request;
}

// examples/published-20-nodes.json as its users plan it: the pipeline alone.
PlanRequest make_published_request() {
  PlanRequest request = make_request(load_network(SKIPPIPE_SOURCE_DIR "/examples/published-20-nodes.json"));
  request.workload.activation_bytes = 0;
  request.workload.stage_gradient_bytes.assign(kStages, 0);
  request.workload.exchange_norm = false;
  request.budget.evaluations = 100000;
  return request;
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown CPU";
}

struct Spread {
  double low, median, high;
};

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 10], values[values.size() / 2], values[values.size() * 9 / 10]};
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Timing {
  std::vector<double> evaluations_per_s;
  uint64_t events = 0;       // of one evaluation
  uint64_t allocations = 0;  // of all
};

Timing time_evaluations(Simulator& simulator, const Plan& plan, Admission admission) {
  Timing timing;
  timing.events = simulator.run(plan, {.admission = admission}).machine_events;
  timing.evaluations_per_s.reserve(kRepeats);
  const uint64_t before = test::allocations();
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kEvaluationsPerRepeat; ++i) simulator.run(plan, {.admission = admission});
    timing.evaluations_per_s.push_back(kEvaluationsPerRepeat / seconds_since(start));
  }
  timing.allocations = test::allocations() - before;
  return timing;
}

// A machine alone: one node that visits every microbatch in a path of one stage, so that nothing but it takes time.
void time_machine() {
  constexpr int kVisits = 1024;
  MachineConfig config;
  config.slots = 3;
  config.microbatches = kVisits;
  config.last_iteration = kRepeats + 1;
  config.exchange_norm = false;
  for (int i = 0; i < kVisits; ++i)
    config.visits.push_back({.microbatch = i,
                             .rank = i,
                             .next_node = 1,
                             .previous_node = 2,
                             .forward_priority = kVisits - i,
                             .backward_priority = 2 * kVisits - i,
                             .backward_rank = i});
  NodeMachine machine(config);
  ActionList actions(NodeMachine::max_actions(kVisits));
  machine.start(0, actions);
  std::vector<double> ns_per_event;
  ns_per_event.reserve(kRepeats);
  const uint64_t before = test::allocations();
  for (uint32_t repeat = 0; repeat < kRepeats; ++repeat) {
    uint64_t events = 0;
    const auto start = std::chrono::steady_clock::now();
    for (int m = 0; m < kVisits; ++m) {
      for (const Phase phase : {Phase::kForward, Phase::kBackward}) {
        actions.clear();
        machine.message_announced(0, repeat, m, phase, actions);
        machine.message_received(0, repeat, m, phase, actions);
        machine.task_finished(0, actions);
        events += 3;
      }
    }
    SKP_CHECK(actions.view().back().kind == Action::Kind::kStep, "iteration {} did not end", repeat);
    actions.clear();
    machine.stepped(0, actions);
    ns_per_event.push_back(seconds_since(start) * 1e9 / static_cast<double>(events + 1));
  }
  const uint64_t allocated = test::allocations() - before;
  const Spread ns = spread(ns_per_event);
  std::printf("node machine alone, %d visits:     %6.1f ns/event (10-90%%: %.1f-%.1f), %llu allocations\n", kVisits,
              ns.median, ns.low, ns.high, static_cast<unsigned long long>(allocated));
}

void report(const char* name, const Timing& timing) {
  const Spread rate = spread(timing.evaluations_per_s);
  std::printf(
      "%-35s %6.0f evaluations/s (10-90%%: %.0f-%.0f), %llu machine events each, %.1f ns/event, %llu allocations\n",
      name, rate.median, rate.low, rate.high, static_cast<unsigned long long>(timing.events),
      1e9 / rate.median / static_cast<double>(timing.events), static_cast<unsigned long long>(timing.allocations));
}

constexpr int kChanges = 5000;

// Random legal changes of a plan: re-simulated from where each first makes a difference, against from the start.
void time_changes(const char* name, const PlanRequest& request, const Plan& plan) {
  Random random(0);
  Moves moves(request);
  Evaluator evaluator(request);
  const Candidate base = candidate_of(plan);
  const double base_s = evaluator.evaluate(base).seconds;
  evaluator.accept();
  std::vector<Candidate> candidates;
  std::vector<Plan> plans;
  Simulator simulator(request.network);
  while (candidates.size() < kChanges) {
    Candidate candidate = base;
    if (!moves.change(candidate, base_s, random)) continue;
    Plan changed = plan;
    take_paths(candidate, changed);
    const Cost cost = evaluator.evaluate(candidate);
    const Simulation& simulated = simulator.run(changed, {.admission = Admission::kAnySlot});
    const bool same = simulated.deadlock ? cost.unfinished == simulated.unfinished_tasks
                                         : cost.unfinished == 0 && cost.seconds == simulated.iteration_s;
    SKP_CHECK(same, "change {}: {} s, simulated {} s", candidates.size(), cost.seconds, simulated.iteration_s);
    candidates.push_back(std::move(candidate));
    plans.push_back(std::move(changed));
  }
  std::vector<double> full_us, incremental_us, limited_us, ratios;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    auto start = std::chrono::steady_clock::now();
    for (const Plan& changed : plans) simulator.run(changed, {.admission = Admission::kAnySlot});
    full_us.push_back(seconds_since(start) * 1e6 / kChanges);
    start = std::chrono::steady_clock::now();
    for (const Candidate& candidate : candidates) evaluator.evaluate(candidate);
    incremental_us.push_back(seconds_since(start) * 1e6 / kChanges);
    ratios.push_back(full_us.back() / incremental_us.back());
    start = std::chrono::steady_clock::now();
    for (const Candidate& candidate : candidates) evaluator.evaluate(candidate, {.unfinished = 0, .seconds = base_s});
    limited_us.push_back(seconds_since(start) * 1e6 / kChanges);
  }
  const Spread ratio = spread(ratios);
  std::printf(
      "%d changes, %s: simulated %.2f us each, re-simulated incrementally %.2f us, %.1f x faster (10-90%%: %.1f-%.1f), "
      "%.2f us where slower ones are given up\n",
      kChanges, name, spread(full_us).median, spread(incremental_us).median, ratio.median, ratio.low, ratio.high,
      spread(limited_us).median);
}

PlanRequest make_replanned_request() {
  constexpr int kReplannedStages = 8, kReplicas = 4, kMicrobatchesPerDataNode = 4;
  PlanRequest request;
  request.network =
      generate_network({.nodes = kReplannedStages * kReplicas, .clusters = 4, .classes = {1, 2}, .spread = 1.5});
  request.rules.skip_ratio = 1.0 / 3;
  request.workload.activation_bytes = 1 << 22;
  request.workload.stage_layers.assign(kReplannedStages, 2);
  request.workload.stage_gradient_bytes.assign(kReplannedStages, 1 << 26);
  request.microbatches = kReplicas * kMicrobatchesPerDataNode;
  request.nodes_per_stage.assign(kReplannedStages, kReplicas);
  request.budget.evaluations = 20000;
  return request;
}

Plan replanned(const Plan& old, const Network& network, const ReplanOptions& options) {
  PlanResult result = replan(old, network, options);
  SKP_CHECK(result.plan.has_value(), "{}: {}", result.rule, result.why);
  require_valid(validate(*result.plan, network), "re-planned");
  return *std::move(result.plan);
}

void time_replan(const char* name, const Plan& old, const Network& network, ReplanOptions options) {
  const double searched_s = replanned(old, network, options).predicted.iteration_s;
  std::vector<double> ms;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    const PlanResult result = replan(old, network, options);
    ms.push_back(seconds_since(start) * 1e3);
  }
  options.budget = SearchBudget{.evaluations = 0};
  const double repaired_s = replanned(old, network, options).predicted.iteration_s;
  const Spread spread_ms = spread(ms);
  std::printf(
      "re-plan, %-26s %6.1f ms (10-90%%: %.1f-%.1f), iteration %.4g s before, %.4g s repaired, %.4g s searched\n", name,
      spread_ms.median, spread_ms.low, spread_ms.high, old.predicted.iteration_s, repaired_s, searched_s);
}

// 32 nodes in 8 stages; one is gone, then it is back.
void time_replanning() {
  const PlanRequest request = make_replanned_request();
  const PlanResult old = make_planner("joint")->plan(request);
  SKP_CHECK(old.plan.has_value(), "{}: {}", old.rule, old.why);
  require_valid(validate(*old.plan, request.network), "joint");
  const ReplanOptions one_gone = {.gone = {old.plan->node_names[static_cast<size_t>(old.plan->stages[3].front())]}};
  time_replan("32 nodes, one gone:", *old.plan, request.network, one_gone);
  time_replan("31 nodes, one joins:", replanned(*old.plan, request.network, one_gone), request.network, {});
}

void run(const char* command) {
  std::printf(
      "machine: %s\ncommand: %s\n%d nodes, %d stages, %d microbatches; one core, %d repeats of %d evaluations\n",
      cpu_name().c_str(), command, kNodes, kStages, kMicrobatches, kRepeats, kEvaluationsPerRepeat);
  const Network network = make_network();
  time_machine();
  Simulator simulator(network);
  for (const char* method : {"joint", "full"}) {
    const PlanResult result = make_planner(method)->plan(make_request(network));
    SKP_CHECK(result.plan.has_value(), "{}: {}", result.rule, result.why);
    require_valid(validate(*result.plan, network), method);
    report(fmt::format("{}, any slot (search):", method).c_str(),
           time_evaluations(simulator, *result.plan, Admission::kAnySlot));
    report(fmt::format("{}, ranked:", method).c_str(), time_evaluations(simulator, *result.plan, Admission::kRanked));
    if (method == std::string_view("joint")) time_changes("drawn", make_request(network), *result.plan);
  }
  const PlanRequest published = make_published_request();
  const PlanResult plan = make_planner("joint")->plan(published);
  SKP_CHECK(plan.plan.has_value(), "{}: {}", plan.rule, plan.why);
  time_changes("published example", published, *plan.plan);
  time_replanning();
}

}  // namespace
}  // namespace skippipe

int main(int, char** argv) {
  try {
    skippipe::run(argv[0]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_schedule: %s\n", error.what());
    return 1;
  }
  return 0;
}
