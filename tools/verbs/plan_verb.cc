// skippipe plan: from a network and a workload to a plan.
#include <memory>
#include <string>
#include <utility>

#include "base/error.h"
#include "schedule/plan/rules.h"
#include "tools/verbs/plan_comparison.h"
#include "tools/verbs/plan_files.h"
#include "tools/verbs/plan_options.h"
#include "tools/verbs/plan_report.h"
#include "tools/verbs/plan_search.h"
#include "tools/verbs/plan_shapes.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

struct Options {
  PlanOptions plan;
  std::string method = "joint";
  bool compare = false;
  ComparisonFiles comparison;
  std::string out;
  PlanViews views;
};

Plan plan_by(const std::string& method, const PlanRequest& request) {
  PlanResult result = search_plan(method, request, "planning").result;
  if (!result.plan) throw PlanError("no {} plan: {}: {}", method, unmet(result.rule), result.why);
  return *std::move(result.plan);
}

ShapedPlan make_plan(const Options& options) {
  if (options.plan.stages == kAutoStages) {
    if (options.compare) throw UsageError("plan: --compare compares methods for stages that are given, not auto");
    return plan_shapes(options.method, make_shape_request(options.plan));
  }
  PlanRequest request = make_plan_request(options.plan);
  Plan plan = options.compare ? compare_methods(request, options.comparison) : plan_by(options.method, request);
  return {.plan = std::move(plan), .request = std::move(request)};
}

void run(const Options& options) {
  require_writable(
      {options.out, options.views.timeline, options.views.map, options.comparison.csv, options.comparison.chart});
  const auto [plan, request] = make_plan(options);
  save_plan_beside(plan, options.plan.network, options.out);
  print_plan(plan);
  fmt::print("{}{}", describe_skipping(options.plan, request, plan), describe_slots(options.plan, request, plan));
  print_floor(request, plan);
  show_views(plan, request.network, options.views);
}

void add_comparison_options(CLI::App& verb, Options& options, CLI::Option* method) {
  CLI::Option* compare =
      verb.add_flag("--compare", options.compare, "Plan by every method, tell how they compare, and keep the best plan")
          ->excludes(method);
  verb.add_option("--csv", options.comparison.csv, "Write the comparison here (CSV)")->needs(compare);
  verb.add_option("--chart", options.comparison.chart, "Write the comparison here as bars (SVG)")->needs(compare);
}

}  // namespace

void add_plan_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("plan", "Plan stages and paths for a network, by simulated time");
  auto options = std::make_shared<Options>();
  add_plan_options(*verb, options->plan);
  CLI::Option* method =
      verb->add_option("--method", options->method,
                       "full: every path visits all stages (DT-FM); random-skip: partial paths at random; skippipe, "
                       "skippipe-no-collision: the published search (arXiv:2502.19913); joint: placement, paths and "
                       "order searched together")
          ->check(CLI::IsMember(planning_methods()))
          ->capture_default_str();
  add_comparison_options(*verb, *options, method);
  verb->add_option("--out", options->out, "Write the plan here (JSON)");
  add_view_options(*verb, options->views);
  verb->footer(
      "Example: skippipe plan --network network.json --stages 6 --microbatches 6 --samples 4 "
      "--tokens 128 --model config.json --out plan.json --timeline plan.svg --map map.svg\n"
      "Which shape? skippipe plan --network network.json --stages auto --batch 96 --samples 4 --tokens 128 "
      "--model config.json --out plan.json");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
