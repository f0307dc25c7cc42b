#include "tools/verbs/plan_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/file.h"
#include "schedule/machine/simulator.h"
#include "schedule/pictures/explanation.h"
#include "schedule/pictures/plan_map.h"
#include "schedule/pictures/svg.h"
#include "schedule/pictures/timeline.h"
#include "schedule/search/lower_bound.h"
#include "tools/verbs/progress.h"

namespace skippipe {
namespace {

constexpr size_t kToldChanges = 6;

std::vector<std::string> unused_nodes(const Plan& plan, const std::vector<std::string>& gone) {
  std::vector<std::string> names;
  const std::vector<int> stage_of = plan.stage_of_nodes();
  for (size_t node = 0; node < stage_of.size(); ++node)
    if (stage_of[node] < 0 && std::ranges::find(gone, plan.node_names[node]) == gone.end())
      names.push_back(plan.node_names[node]);
  return names;
}

std::string describe(const Plan& plan) {
  const size_t used = used_nodes(plan).size(), all = plan.node_names.size();
  const std::string nodes = used == all ? fmt::format("{}", all) : fmt::format("{} of {}", used, all);
  return fmt::format("{}: {} microbatches of {} sample{} through {} of {} stages on {} nodes", plan.method,
                     plan.microbatches.size(), plan.workload.samples, plan.workload.samples == 1 ? "" : "s",
                     plan.microbatches.front().visits.size(), plan.stages.size(), nodes);
}

std::string title_of(const Plan& plan, double iteration_s) {
  return fmt::format("{}, {:.4g} s for one iteration by itself", describe(plan), iteration_s);
}

void write_timeline(const Plan& plan, const Network& network, const std::string& path) {
  Simulator simulator(network);
  SimulationRecord record;
  const double iteration_s = simulator.run(plan, {.record = &record}).iteration_s;
  const std::string title = title_of(plan, iteration_s);
  const TimelineOptions options{.title = title, .critical = critical_path(plan, record)};
  write_file_atomically(path, standalone_svg(render_timeline(plan, record, options)));
}

void write_map(const Plan& plan, const Network& network, const std::string& path) {
  const std::string title = title_of(plan, plan.predicted.iteration_s);
  write_file_atomically(path, standalone_svg(render_plan_map(plan, network, title)));
}

}  // namespace

void print_plan(const Plan& plan, const std::vector<std::string>& gone) {
  const Prediction& predicted = plan.predicted;
  fmt::print("{}\n", describe(plan));
  fmt::print("  planned    {:.4g} s per iteration of a long run\n", predicted.steady_iteration_s);
  fmt::print("  alone      {:.4g} s for one iteration by itself, such as the first: what is searched for and drawn\n",
             predicted.iteration_s);
  fmt::print("  waiting    {:.1f} % of the nodes' time\n", predicted.waiting_share * 100);
  fmt::print("  sent       {} per iteration\n\n", format_bytes(static_cast<uint64_t>(predicted.bytes_sent)));

  size_t width = 4;
  for (const std::string& name : plan.node_names) width = std::max(width, name.size());
  fmt::print("  {:<{}}  stage  slots  visits    busy\n", "node", width);
  std::vector<int> visits(plan.node_names.size(), 0);
  for (const PlannedMicrobatch& microbatch : plan.microbatches)
    for (const PlannedVisit& visit : microbatch.visits) ++visits[static_cast<size_t>(visit.node)];
  for (size_t stage = 0; stage < plan.stages.size(); ++stage)
    for (const int node : plan.stages[stage]) {
      const auto i = static_cast<size_t>(node);
      fmt::print("  {:<{}}  {:>5}  {:>5}  {:>6}  {:>4.0f} %\n", plan.node_names[i], width, stage, plan.node_slots[i],
                 visits[i], predicted.busy_share[i] * 100);
    }
  std::vector<std::string> idle;
  for (const int node : used_nodes(plan))
    if (visits[static_cast<size_t>(node)] == 0) idle.push_back(plan.node_names[static_cast<size_t>(node)]);
  if (!idle.empty())
    fmt::print(
        "\n  idle       {}: in no path, only in sums of gradients; --nodes-per-stage keeps all nodes, --stages {} "
        "not\n",
        fmt::join(idle, ", "), plan.stage_count());
  const std::vector<std::string> unused = unused_nodes(plan, gone);
  if (!unused.empty()) fmt::print("\n  unused     {}: the best plan found does without\n", fmt::join(unused, ", "));
}

void print_floor(PlanRequest request, const Plan& plan) {
  request.rules = plan.rules;
  const auto print = [&](const char* where, const LowerBound& bound) {
    if (bound.seconds <= 0) return;
    fmt::print("  floor      {:.4g} s {}, which one iteration by itself exceeds by {:.1f} %: {}\n", bound.seconds,
               where, (plan.predicted.iteration_s / bound.seconds - 1) * 100, bound.what);
  };
  fmt::print("\n");
  print("on these stages", lower_bound(request, plan.stages));
  if (request.stages.empty()) print("on any stages", lower_bound(request));
}

void add_view_options(CLI::App& verb, PlanViews& views) {
  verb.add_flag("--explain", views.explain, "Say what bounds the iteration, and which change would help most");
  verb.add_option("--timeline", views.timeline, "Write a picture of an iteration here (SVG)");
  verb.add_option("--map", views.map, "Write a picture of stages, nodes and paths here (SVG)");
}

void show_views(const Plan& plan, const Network& network, const PlanViews& views) {
  if (views.explain) fmt::print("\n{}", explanation_text(plan, explain_plan(plan, network), kToldChanges));
  if (!views.timeline.empty()) write_timeline(plan, network, views.timeline);
  if (!views.map.empty()) write_map(plan, network, views.map);
}

}  // namespace skippipe
