// skippipe launch: all the nodes of a run on this machine, or some of them, each in a process of its own.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <numeric>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "engine/run/preflight.h"
#include "engine/run/resume.h"
#include "engine/run/run_description.h"
#include "engine/run/run_memory.h"
#include "engine/trace/trace_file.h"
#include "tools/processes/local_addresses.h"
#include "tools/processes/process_settings.h"
#include "tools/verbs/cpu_remarks.h"
#include "tools/verbs/device_option.h"
#include "tools/verbs/go_on.h"
#include "tools/verbs/measured_remark.h"
#include "tools/verbs/node_processes.h"
#include "tools/verbs/node_trace.h"
#include "tools/verbs/number_options.h"
#include "tools/verbs/start_options.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

struct Options {
  std::string run_file;
  std::string nodes;
  StartChoice start;
  std::vector<DeviceName> devices = {DeviceName{}};
  bool dry_run = false;
  TraceOptions trace;
};

int parse_node(const std::string& text, int node_count) {
  int node = -1;
  if (!parse_number(text, node) || node < 0 || node >= node_count)
    throw UsageError("--nodes: found '{}', expected nodes from 0 to {}, such as 0-3,7", text, node_count - 1);
  return node;
}

// "0-3,7" into node indices; all nodes for an empty text.
std::vector<int> parse_nodes(const std::string& text, int node_count) {
  std::vector<int> nodes(static_cast<size_t>(node_count));
  std::iota(nodes.begin(), nodes.end(), 0);
  if (text.empty()) return nodes;
  std::set<int> chosen;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const size_t dash = part.find('-');
    const int first = parse_node(part.substr(0, dash), node_count);
    const int last = dash == std::string::npos ? first : parse_node(part.substr(dash + 1), node_count);
    if (last < first) throw UsageError("--nodes: found '{}', expected the lower node first", part);
    for (int node = first; node <= last; ++node) chosen.insert(node);
    begin = end + 1;
  }
  return {chosen.begin(), chosen.end()};
}

std::string label_of(const TrainingRun& run, int node) {
  return fmt::format("node {} ({})", node, run.network.nodes[static_cast<size_t>(node)].name);
}

// The devices in turn.
const DeviceName& device_of(const Options& options, size_t place) {
  return options.devices[place % options.devices.size()];
}

// What every node recomputes, so that all those on the CPU know it, and the same.
std::string recompute_argument(const TrainingRun& run) {
  std::vector<std::string> names;
  for (int node = 0; node < run.network.size(); ++node) names.emplace_back(recompute_name(run.recompute_of(node)));
  return fmt::format("{}", fmt::join(names, ","));
}

void start_nodes(NodeProcesses& processes, const TrainingRun& run, const Options& options,
                 const std::vector<int>& nodes) {
  LocalAddresses local;
  if (run.file.addresses.empty()) local = listen_locally(run.network.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    const int node = nodes[i];
    std::vector<std::string> arguments = {
        "train", options.run_file, "--node", std::to_string(node), "--device", device_of(options, i).to_string(),
        "--told"};
    if (!run.resumed_from.empty())
      arguments.insert(arguments.end(), {"--resume-from", run.resumed_from.string(), "--is-whole"});
    add_trace_arguments(arguments, options.trace);
    // A node on a GPU looks what that has left.
    if (device_of(options, i).device == Device::kCpu)
      arguments.insert(arguments.end(), {"--recompute", recompute_argument(run)});
    if (!local.addresses.empty()) local.add_arguments(arguments, node);
    processes.start(label_of(run, node), arguments, local.listener(node));
  }
}

std::vector<int> on_the_cpu(const Options& options, const std::vector<int>& nodes) {
  std::vector<int> found;
  for (size_t i = 0; i < nodes.size(); ++i)
    if (device_of(options, i).device == Device::kCpu) found.push_back(nodes[i]);
  return found;
}

void print_memory(const TrainingRun& run, const Options& options, const std::vector<int>& nodes) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    const DeviceName& device = device_of(options, i);
    const auto backend = make_backend(device, parse_attention_kernels(run.file.attention));
    TrainingRun own = run;
    if (device.device != Device::kCpu) choose_recompute(own, *backend, {});
    fmt::print("{}\n", memory_table(own, nodes[i], *backend));
  }
  std::fflush(stdout);  // before what may be wrong
}

// Nodes that ran elsewhere left their parts there.
void merge_run_traces(const TrainingRun& run) {
  const std::optional<Trace> trace = merge_traces(run.file.output, run_id_text(run.file.run_id));
  if (!trace) return;
  write_trace(*trace, merged_trace_file(run.file.output));
  fmt::print("trace of {} of {} nodes in {}\n", trace->nodes.size(), run.network.size(),
             merged_trace_file(run.file.output).string());
}

void launch(const Options& options, const CLI::App& verb) {
  TrainingRun run = load_run(options.run_file);
  const std::vector<int> nodes = parse_nodes(options.nodes, run.network.size());
  const std::vector<int> cpu_nodes = on_the_cpu(options, nodes);
  const auto cpu = make_backend({});
  choose_recompute(run, *cpu, cpu_nodes);
  const bool traces = trace_limits(options.trace).has_value();
  if (traces) require_place_of_traces(run);
  const auto tell_of_broken = [](const auto&, const std::string& problem) {
    fmt::print(stderr, "passed over: {}\n", problem);
  };
  if (options.dry_run) {
    print_memory(run, options, nodes);
    check_memory(run, *cpu, cpu_nodes);
    if (options.start.resumes()) choose_start(run, options.start, tell_of_broken);
    return preflight(run, nodes);
  }
  if (run.file.addresses.empty() && static_cast<int>(nodes.size()) != run.network.size())
    throw ConfigError(
        "{}: network.addresses is empty, expected the address of every node where --nodes starts only some",
        options.run_file);
  // Each node checks for itself again; that all of those on the CPU fit together only their launch can see.
  check_memory(run, *cpu, cpu_nodes);
  choose_start(run, options.start, tell_of_broken);
  preflight(run, nodes);
  require_open_files(std::max(open_files_of_launch(run.network.size()), open_files_of_node(run.network.size())),
                     fmt::format("a run of {} nodes", run.network.size()));
  create_output_folder(run);
  warn_of_other_measurement(run);
  if (!cpu_nodes.empty()) print_cpu_remarks({{}, "compute.threads", static_cast<int>(run.file.threads), run.dtype()});
  const bool agrees = run.file.clip_norm > 0;  // nodes that exchange norms can end after the same iteration
  run_to_its_end(run.file.output, verb, [&] {
    NodeProcesses processes(agrees ? "stopping after this iteration; Ctrl-C again stops at once"
                                   : "stopping without a checkpoint (optimizer.clip_norm = 0)");
    start_nodes(processes, run, options, nodes);
    processes.wait();
  });
  if (traces) merge_run_traces(run);
}

}  // namespace

void add_launch_verb(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("launch", "Train with all the nodes of a run on this machine, or some of them");
  verb->add_option("run", options->run_file, "run file (TOML)")->required();
  verb->add_option("--nodes", options->nodes, "which nodes to start here, such as 0-9,12 (default: all)");
  verb->add_option_function<std::vector<std::string>>(
          "--device",
          [options](const std::vector<std::string>& names) {
            options->devices.clear();
            for (const std::string& name : names) options->devices.push_back(device_from_option(name));
          },
          "the nodes' devices, given to them in turn, such as cuda:0,cuda:1 (default: cpu)")
      ->delimiter(',');
  add_start_options(*verb, options->start);
  verb->add_flag("--dry-run", options->dry_run, "print each node's memory and exit");
  add_trace_options(*verb, options->trace);
  verb->footer("Example: skippipe launch runs/demo/full.toml");
  verb->callback([options, verb] { launch(*options, *verb); });
}

}  // namespace skippipe
