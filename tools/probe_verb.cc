// skippipe probe: measures this device with a model and writes the figures into a network file.
#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "engine/probe.h"
#include "tools/dtype_option.h"
#include "tools/verbs.h"

namespace skippipe {
namespace {

struct Options {
  std::string config;
  std::string network;
  std::string out;
  ProbeSettings settings = {.batch = {4, 128}};
};

void print_line(const char* task, const Measured& time, const std::string& per) {
  fmt::print("{:<10} {:>10.3f} ms  ({:.3f} to {:.3f})   {}\n", task, 1e3 * time.median_s, 1e3 * time.low_s,
             1e3 * time.high_s, per);
}

void print_result(const ProbeResult& result, const ProbeSettings& settings) {
  fmt::print("{} x {} tokens, {} layer(s) per stage, {}, {} thread(s): median (quartiles) of {}\n",
             settings.batch.samples, settings.batch.tokens, settings.layers_per_stage, dtype_name(settings.dtype),
             settings.threads, settings.repetitions);
  print_line("forward", result.forward, fmt::format("forward_s {:.3g} per layer and sample", result.forward_s));
  print_line("backward", result.backward, fmt::format("backward_over_forward {:.3f}", result.backward_over_forward));
  print_line("loss", result.loss, fmt::format("loss_over_forward {:.3f}", result.loss_over_forward));
  print_line("step", result.step, fmt::format("step_s_per_byte {:.3g}", result.step_s_per_byte));
}

void run(const Options& options) {
  if (options.network.empty() != options.out.empty())
    throw UsageError("probe: give both of --network and --out, or none");
  const ModelConfig config = load_model_config(options.config);
  Network network;
  if (!options.network.empty()) network = load_network(options.network);
  const ProbeResult result = probe(config, options.settings);
  print_result(result, options.settings);
  if (options.out.empty()) return;
  for (NetworkNode& node : network.nodes) apply(node, result);
  save_network(network, options.out);
  fmt::print("{}: {} nodes with these figures\n", options.out, network.size());
}

}  // namespace

void add_probe_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("probe", "Measure what this device needs for a model, for plans");
  auto options = std::make_shared<Options>();
  ProbeSettings& settings = options->settings;
  verb->add_option("--config", options->config, "The model's config.json")->required();
  verb->add_option("--samples", settings.batch.samples, "Samples of a microbatch")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  verb->add_option("--tokens", settings.batch.tokens, "Tokens of a sample")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("--layers-per-stage", settings.layers_per_stage, "Transformer layers of a stage")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  add_dtype_option(*verb, settings.dtype, "The run's compute.dtype");
  verb->add_option("--threads", settings.threads, "Threads of a node")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  verb->add_option("--repetitions", settings.repetitions, "Measurements of each task")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  verb->add_option("--network", options->network, "The network file to fill in");
  verb->add_option("--out", options->out, "Where to write it, with this device's figures in every node");
  verb->footer(
      "Example: skippipe probe --config config.json --samples 4 --tokens 128 --network network.json --out probed.json");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
