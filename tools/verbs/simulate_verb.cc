// skippipe simulate: validates a plan and re-evaluates it, also with durations that differ from the planned ones.
#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "schedule/machine/ranking.h"
#include "schedule/machine/simulator.h"
#include "schedule/plan/validator.h"
#include "tools/verbs/plan_files.h"
#include "tools/verbs/plan_report.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

struct Options {
  std::string plan;
  std::string network;
  uint32_t iterations = 4;
  double jitter = 1;
  uint64_t seed = 0;
  PlanViews views;
};

void print_jittered(const Plan& plan, Simulator& simulator, const Options& options) {
  const Simulation& result =
      simulator.run(plan, {.iterations = options.iterations, .jitter = options.jitter, .seed = options.seed});
  SKP_CHECK(!result.deadlock, "a valid plan deadlocks: {}", simulator.describe_deadlock());
  fmt::print("  durations off by up to a factor of {}, seed {}: first iteration {:.6g} s", options.jitter, options.seed,
             result.iteration_s);
  if (options.iterations > 1)
    fmt::print(", mean of the next {} {:.6g} s", options.iterations - 1, result.steady_iteration_s);
  fmt::print("\n");
}

void run(const Options& options) {
  require_writable({options.views.timeline, options.views.map});
  Plan plan = load_plan(options.plan);
  const Network network = load_network(network_file_of(plan, options.plan, options.network));
  require_valid(validate(plan, network), options.plan);
  const double planned_s = plan.predicted.steady_iteration_s;
  Simulator simulator(network);
  SKP_CHECK(predict(plan, simulator), "a valid plan deadlocks: {}", simulator.describe_deadlock());
  print_plan(plan);
  const double now_s = plan.predicted.steady_iteration_s;
  fmt::print("\n  the file says {:.6g} s per iteration of a long run, simulated now {:.6g} s ({:+.2f} %)\n", planned_s,
             now_s, planned_s > 0 ? (now_s / planned_s - 1) * 100 : 0.0);
  print_jittered(plan, simulator, options);
  show_views(plan, network, options.views);
}

}  // namespace

void add_simulate_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("simulate", "Validate a plan and predict its times again");
  auto options = std::make_shared<Options>();
  verb->add_option("plan", options->plan, "A plan (JSON)")->required();
  verb->add_option("--network", options->network, "The network to run it on (JSON); default: the one it was made for");
  verb->add_option("--iterations", options->iterations, "Iterations to simulate")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  verb->add_option("--jitter", options->jitter,
                   "Multiply each duration by a random factor of up to this, or its inverse")
      ->check(CLI::Range(1.0, 1000.0))
      ->capture_default_str();
  verb->add_option("--seed", options->seed, "Of the jitter")->capture_default_str();
  add_view_options(*verb, options->views);
  verb->footer("Example: skippipe simulate plan.json --network network.json --jitter 1.1 --iterations 20");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
