// skippipe replan: what becomes of a plan when nodes are gone or have joined.
#include <fmt/ranges.h>

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "schedule/plan/validator.h"
#include "schedule/search/replanning.h"
#include "tools/verbs/measured_remark.h"
#include "tools/verbs/number_options.h"
#include "tools/verbs/plan_files.h"
#include "tools/verbs/plan_report.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

struct Options {
  std::string plan;
  std::string network;
  std::vector<std::string> places;  // NAME=STAGE
  std::optional<int64_t> evaluations;
  ReplanOptions replan;
  std::string out;
  PlanViews views;
};

void take_place(const std::string& text, std::map<std::string, int>& places) {
  const size_t equals = text.rfind('=');
  int stage = 0;
  if (equals == std::string::npos || equals == 0 || !parse_number(text.substr(equals + 1), stage))
    throw UsageError("--place: found '{}', expected a node and its stage such as node-7=2", text);
  if (!places.try_emplace(text.substr(0, equals), stage).second)
    throw UsageError("--place: '{}' is given twice", text.substr(0, equals));
}

void print_nodes(const char* label, const std::vector<PlanChange::Node>& nodes) {
  if (nodes.empty()) return;
  std::vector<std::string> texts;
  for (const PlanChange::Node& node : nodes) {
    if (node.from >= 0 && node.to >= 0)
      texts.push_back(fmt::format("{} (stage {} to {})", node.name, node.from, node.to));
    else
      texts.push_back(fmt::format("{} (stage {})", node.name, std::max(node.from, node.to)));
  }
  fmt::print("  {:<9}  {}\n", label, fmt::join(texts, ", "));
}

void print_change(const Plan& before, const Plan& after) {
  const PlanChange change = compare_plans(before, after);
  fmt::print("\n");
  print_nodes("gone", change.gone);
  print_nodes("joined", change.joined);
  print_nodes("moved", change.moved);
  if (!change.unused.empty()) fmt::print("  unused     {}\n", fmt::join(change.unused, ", "));
  fmt::print("  visits     {} of {} on another node\n", change.moved_visits, change.visits);
  const double before_s = before.predicted.steady_iteration_s, now_s = after.predicted.steady_iteration_s;
  fmt::print("  planned    {:.4g} s per iteration before, {:.4g} s now ({:+.1f} %)\n", before_s, now_s,
             before_s > 0 ? (now_s / before_s - 1) * 100 : 0.0);
}

void run(const Options& options) {
  require_writable({options.out, options.views.timeline, options.views.map});
  const Plan old = load_plan(options.plan);
  const std::string network_file = network_file_of(old, options.plan, options.network);
  const Network network = load_network(network_file);
  warn_of_other_measurement(network, network_file, old.workload);
  ReplanOptions replan_options = options.replan;
  for (const std::string& place : options.places) take_place(place, replan_options.places);
  if (options.evaluations) replan_options.budget = SearchBudget{.evaluations = *options.evaluations};
  const PlanResult result = replan(old, network, replan_options);
  if (!result.plan) throw PlanError("no plan without these nodes: rule {} can't be met: {}", result.rule, result.why);
  require_valid(validate(*result.plan, network), "the new plan");
  print_plan(*result.plan, options.replan.gone);
  print_change(old, *result.plan);
  print_floor(request_of(*result.plan, network), *result.plan);
  save_plan_beside(*result.plan, network_file, options.out);
  show_views(*result.plan, network, options.views);
}

}  // namespace

void add_replan_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("replan", "Adapt a plan to nodes that are gone or have joined");
  auto options = std::make_shared<Options>();
  verb->add_option("plan", options->plan, "The plan so far (JSON)")->required();
  verb->add_option("--network", options->network,
                   "The network as it is now (JSON): nodes that it lacks are gone, those that only it has have joined; "
                   "default: the plan's");
  verb->add_option("--gone", options->replan.gone, "Nodes that are gone, by name: the network need not be without them")
      ->delimiter(',')
      ->allow_extra_args(false);
  verb->add_option("--place", options->places,
                   "Stages for nodes that join, or that should move: node-7=2; others join where they help most")
      ->delimiter(',')
      ->allow_extra_args(false);
  verb->add_flag("--may-move", options->replan.may_move, "A stage with no node left may take one from another");
  verb->add_option("--evaluations", options->evaluations,
                   "Candidates to simulate, 0: none; default: what takes about a third of a second")
      ->check(CLI::Range(0, 1000000000));
  verb->add_option("--seed", options->replan.seed, "Of the search")->capture_default_str();
  verb->add_option("--out", options->out, "Write the new plan here (JSON)");
  add_view_options(*verb, options->views);
  verb->footer("Example: skippipe replan plan.json --gone node-3,node-8 --out new-plan.json");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
