// skippipe replan: what becomes of a plan when nodes are gone or have joined.
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/validator.h"
#include "schedule/search/recutting.h"
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
  int stages = 0;                   // 0: the plan's, if they can be filled
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

void print_change(const Plan& before, const Plan& after, const std::vector<std::string>& gone) {
  PlanChange change = compare_plans(before, after);
  const auto is_there = [&](const PlanChange::Node& node) {
    return std::ranges::find(after.node_names, node.name) != after.node_names.end() &&
           std::ranges::find(gone, node.name) == gone.end();
  };
  const auto left_out = std::ranges::stable_partition(change.gone, std::not_fn(is_there));
  fmt::print("\n");
  print_nodes("gone", {change.gone.begin(), left_out.begin()});
  print_nodes("left out", {left_out.begin(), left_out.end()});
  print_nodes("joined", change.joined);
  if (before.stage_count() == after.stage_count()) {
    print_nodes("moved", change.moved);
    fmt::print("  visits     {} of {} on another node\n", change.moved_visits, change.visits);
  }
  const double before_s = before.predicted.steady_iteration_s, now_s = after.predicted.steady_iteration_s;
  fmt::print("  planned    {:.4g} s per iteration before, {:.4g} s now ({:+.1f} %)\n", before_s, now_s,
             before_s > 0 ? (now_s / before_s - 1) * 100 : 0.0);
}

// For a stage that has no node left.
std::string ways_out(const Plan& old, const Options& options) {
  std::string text;
  if (!options.replan.may_move) text += "; --may-move lets another stage's node take its place";
  if (old.stage_count() > 1) text += fmt::format("; --stages {} makes a plan of fewer stages", old.stage_count() - 1);
  return text;
}

// In the plan's stages, or in those that are asked for; in fewer where fewer nodes are left than there are stages.
Plan make_plan(const Plan& old, const Network& network, const Options& options, const ReplanOptions& replan_options) {
  if (options.stages > 0) {
    PlanResult result = recut(old, network, options.stages, replan_options);
    if (result.plan) return *std::move(result.plan);
    throw PlanError("no plan of {} stages for the nodes that are left: {}: {}", options.stages, unmet(result.rule),
                    result.why);
  }
  PlanResult kept = replan(old, network, replan_options);
  if (kept.plan) return *std::move(kept.plan);
  const std::string refusal = fmt::format("{}: {}", unmet(kept.rule), kept.why);
  const auto left = static_cast<int>(nodes_left(old, network, replan_options.gone).size());
  if (kept.rule != kStageNodesRule || left == 0) throw PlanError("no plan without these nodes: {}", refusal);
  if (left >= old.stage_count()) throw PlanError("no plan without these nodes: {}{}", refusal, ways_out(old, options));
  PlanResult fewer = recut_to_fit(old, network, replan_options);
  if (!fewer.plan)
    throw PlanError("no plan without these nodes: {}; nor in fewer stages: {}: {}", refusal, unmet(fewer.rule),
                    fewer.why);
  fmt::print("{} stages instead of {}: {}.\n`skippipe launch --resume` cuts a run's checkpoint into these.\n\n",
             fewer.plan->stage_count(), old.stage_count(), kept.why);
  return *std::move(fewer.plan);
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
  const Plan plan = make_plan(old, network, options, replan_options);
  require_valid(validate(plan, network), "the new plan");
  print_plan(plan, options.replan.gone);
  print_change(old, plan, options.replan.gone);
  print_floor(request_of(plan, network), plan);
  save_plan_beside(plan, network_file, options.out);
  show_views(plan, network, options.views);
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
  CLI::Option* place =
      verb->add_option("--place", options->places,
                       "Stages for nodes that join, or that should move: node-7=2; others join where they help most")
          ->delimiter(',')
          ->allow_extra_args(false);
  CLI::Option* may_move =
      verb->add_flag("--may-move", options->replan.may_move, "A stage with no node left may take one from another");
  verb->add_option("--stages", options->stages,
                   "Plan anew in so many stages, with layers as even as possible and nodes anywhere; default: the "
                   "plan's, or, where fewer nodes are left, as many as there are nodes")
      ->check(CLI::Range(1, 1024))
      ->excludes(place)
      ->excludes(may_move);
  verb->add_option("--evaluations", options->evaluations,
                   "Candidates to simulate, 0: none; default: what takes about a third of a second, ten times that in "
                   "another number of stages")
      ->check(CLI::Range(0, 1000000000));
  verb->add_option("--seed", options->replan.seed, "Of the search")->capture_default_str();
  verb->add_option("--out", options->out, "Write the new plan here (JSON)");
  add_view_options(*verb, options->views);
  verb->footer("Example: skippipe replan plan.json --gone node-3,node-8 --out new-plan.json");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
