// skippipe probe: measures this device with a model, or all devices and links of a network, and writes the figures into
// a network file.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/file_writer.h"
#include "base/log.h"
#include "comm/transport/shaped_transport.h"
#include "engine/model/device.h"
#include "engine/probe/network_probe.h"
#include "engine/run/emulated_links.h"
#include "tools/processes/local_addresses.h"
#include "tools/processes/process_settings.h"
#include "tools/verbs/cpu_remarks.h"
#include "tools/verbs/device_option.h"
#include "tools/verbs/dtype_option.h"
#include "tools/verbs/join_nodes.h"
#include "tools/verbs/node_processes.h"
#include "tools/verbs/probe_report.h"
#include "tools/verbs/progress.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

constexpr size_t kMostMessageBytes = size_t{1} << 30;
constexpr size_t kDefaultMostMessageBytes = size_t{4} << 20;
constexpr std::chrono::milliseconds kLeaveLimit(10'000);

struct Options {
  std::string config;
  std::string network;
  std::string emulate;
  std::string out;
  int local = 0;
  std::vector<std::string> addresses;
  int node = -1;
  int listen_fd = -1;
  bool told = false;
  size_t message_bytes = 0;
  double stream_s = 0.5;
  int limit_minutes = 120;
  int connect_limit_s = 60;
  ProbeSettings settings = {.batch = {4, 128}};
};

void check(const Options& options) {
  const bool network_of_nodes = options.local > 0 || !options.addresses.empty();
  if (options.local > 0 && !options.addresses.empty())
    throw UsageError("probe: give --local, or --addresses and --node, not both");
  if (!options.addresses.empty() && (options.node < 0 || options.node >= static_cast<int>(options.addresses.size())))
    throw UsageError("--node: found {}, expected 0 to {}, the place of this node's address in --addresses",
                     options.node, options.addresses.size() - 1);
  if (options.addresses.size() == 1 || options.local == 1)
    throw UsageError("probe: links need at least two nodes; without --local and --addresses this device is measured");
  if (!network_of_nodes && options.network.empty() != options.out.empty())
    throw UsageError("probe: give both of --network and --out, or none");
  if (!network_of_nodes && !options.emulate.empty())
    throw UsageError("probe: --emulate needs nodes, of --local or --addresses");
  if (options.out.empty() || (!options.addresses.empty() && options.node != 0)) return;
  require_writable_file(options.out);
}

ComputeChoice choice_of(const ProbeSettings& settings) {
  return {settings.device, "--threads", settings.threads, settings.dtype};
}

// ---- this device

void probe_this_device(const Options& options, const ModelConfig& config) {
  Network network;
  if (!options.network.empty()) network = load_network(options.network);
  const ProbeResult result = probe(config, options.settings);
  fmt::print("device: {}\n", describe_device(options.settings.device));
  print_device(result, options.settings);
  if (options.out.empty()) return;
  for (NetworkNode& node : network.nodes) apply(node, result);
  network.measured_for = measured_for(config, options.settings.batch, options.settings.dtype);
  save_network(network, options.out);
  fmt::print("{}: {} nodes with these figures\n", options.out, network.size());
}

// ---- as one of several nodes

Network unnamed_network(int nodes) {
  Network network;
  network.nodes.resize(static_cast<size_t>(nodes));
  for (int node = 0; node < nodes; ++node) network.nodes[static_cast<size_t>(node)].name = fmt::format("node-{}", node);
  return network;
}

// The first nodes of a network with at least so many.
Network first_nodes(const Network& network, int nodes, const std::string& file) {
  if (network.size() < nodes) throw PlanError("{}: {} nodes, expected at least {}", file, network.size(), nodes);
  std::vector<int> first(static_cast<size_t>(nodes));
  std::iota(first.begin(), first.end(), 0);
  return subnetwork(network, first);
}

size_t message_bytes(const Options& options, const ModelConfig& config) {
  if (options.message_bytes > 0) return options.message_bytes;
  const auto activations = static_cast<double>(options.settings.batch.samples * options.settings.batch.tokens) *
                           static_cast<double>(config.channels * dtype_bytes(options.settings.dtype));
  return static_cast<size_t>(std::min(activations, static_cast<double>(kDefaultMostMessageBytes)));
}

// Containers of one machine have its boot id, too: they share what is measured. Else as this node's address names it.
std::string this_machine(const Options& options) {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id.empty() ? parse_node_address(options.addresses[static_cast<size_t>(options.node)]).host : id;
}

NetworkProbeSettings network_settings(const Options& options, const ModelConfig& config) {
  const ProbeSettings& device = options.settings;
  NetworkProbeSettings settings;
  settings.links.message_bytes = message_bytes(options, config);
  settings.links.repetitions = device.repetitions;
  settings.links.stream_s = options.stream_s;
  settings.machine = this_machine(options);
  settings.limit = std::chrono::minutes(options.limit_minutes);
  settings.agreed = {{"--config", fmt::format("C {} F {} H {} K {} D {} V {}", config.channels, config.feed_forward,
                                              config.heads, config.kv_heads, config.head_dim, config.vocabulary)},
                     {"--samples", std::to_string(device.batch.samples)},
                     {"--tokens", std::to_string(device.batch.tokens)},
                     {"--layers-per-stage", std::to_string(device.layers_per_stage)},
                     {"--dtype", std::string(dtype_name(device.dtype))},
                     {"--repetitions", std::to_string(device.repetitions)},
                     {"--message-bytes", std::to_string(settings.links.message_bytes)},
                     {"--emulate", options.emulate.empty() ? "nothing" : "a network"}};
  return settings;
}

void probe_as_node(const Options& options, const ModelConfig& config) {
  const int nodes = static_cast<int>(options.addresses.size());
  std::optional<Network> emulated;
  if (!options.emulate.empty()) emulated = first_nodes(load_network(options.emulate), nodes, options.emulate);
  Network base = !options.network.empty() ? load_network(options.network) : emulated.value_or(unnamed_network(nodes));
  if (base.size() != nodes)
    throw PlanError("{}: {} nodes, expected the {} whose addresses were given", options.network, base.size(), nodes);
  const NetworkProbeSettings settings = network_settings(options, config);

  UcxOptions ucx;
  ucx.run_id = probe_run_id(options.addresses);
  ucx.connect_limit = std::chrono::seconds(options.connect_limit_s);
  ucx.logger = make_logger(base.nodes[static_cast<size_t>(options.node)].name);
  const std::unique_ptr<Transport> transport =
      join_nodes(std::move(ucx), options.node, options.addresses, options.listen_fd);
  std::optional<ShapedTransport> shaped;
  if (emulated) emulate_links(shaped, *transport, *emulated, options.node);
  Transport& used = shaped ? static_cast<Transport&>(*shaped) : *transport;

  std::optional<Progress> progress;
  if (options.node == 0) progress.emplace("probing", static_cast<uint64_t>(nodes) * nodes, "devices and links");
  NetworkProbe network_probe(
      used, settings,
      [&](int nodes_on_machine) {
        ProbeSettings device = options.settings;
        device.nodes_on_machine = nodes_on_machine;
        return probe(config, device);
      },
      [&](int done, int) { progress->update(static_cast<uint64_t>(done)); });
  const std::optional<NetworkFigures> figures = network_probe.run();
  const Status left = used.close(kLeaveLimit);
  progress.reset();
  if (!figures) return;
  if (!left.ok()) throw RunError(left.message());
  Network network = measured_network(std::move(base), *figures, static_cast<double>(settings.links.message_bytes));
  network.measured_for = measured_for(config, options.settings.batch, options.settings.dtype);
  fmt::print("device: {}\n", describe_device(options.settings.device));
  print_network(network, *figures, options.settings, settings.links.message_bytes);
  if (options.out.empty()) return;
  save_network(network, options.out);
  fmt::print("{}: {} nodes, {} links\n", options.out, nodes, nodes * (nodes - 1));
}

// ---- several nodes here

// The verb again, as each of the nodes: all the options that were given go with it.
void probe_locally(const Options& options, const CLI::App& verb) {
  require_open_files(std::max(open_files_of_launch(options.local), open_files_of_node(options.local)),
                     fmt::format("a probe of {} nodes", options.local));
  print_cpu_remarks(choice_of(options.settings));
  NodeProcesses processes("stopping; Ctrl-C again stops at once");
  const LocalAddresses local = listen_locally(options.local);
  for (int node = 0; node < options.local; ++node) {
    std::vector<std::string> arguments = {verb.get_name(), "--node", std::to_string(node)};
    for (const CLI::Option* option : verb.get_options()) {
      if (option->empty() || option->get_name() == "--local" || option->get_name() == "--node") continue;
      arguments.push_back(option->get_name());
      arguments.insert(arguments.end(), option->results().begin(), option->results().end());
    }
    arguments.emplace_back("--told");
    local.add_arguments(arguments, node);
    processes.start(fmt::format("node {}", node), arguments, local.listener(node));
  }
  processes.wait();
}

void run(Options options, const CLI::App& verb) {
  check(options);
  if (options.local > 0) return probe_locally(options, verb);
  const ModelConfig config = load_training_config(options.config);
  if (!options.told) print_cpu_remarks(choice_of(options.settings));
  options.settings.threads = usable_threads(choice_of(options.settings));
  options.addresses.empty() ? probe_this_device(options, config) : probe_as_node(options, config);
}

void add_device_options(CLI::App& verb, ProbeSettings& settings) {
  verb.add_option("--samples", settings.batch.samples, "Samples of a microbatch")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  verb.add_option("--tokens", settings.batch.tokens, "Tokens of a sample")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb.add_option("--layers-per-stage", settings.layers_per_stage, "Transformer layers of a stage")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  add_dtype_option(verb, settings.dtype, "The run's compute.dtype");
  add_device_option(verb, settings.device);
  verb.add_option("--threads", settings.threads, "Threads of a node")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  verb.add_option("--repetitions", settings.repetitions, "Measurements of each task")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  verb.add_option("--max-slots", settings.most_slots, "At most so many slots, however much memory there is")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
}

void add_network_options(CLI::App& verb, Options& options) {
  verb.add_option("--local", options.local, "Probe so many nodes on this machine, and the links between them")
      ->check(CLI::Range(1, 256));
  verb.add_option("--addresses", options.addresses,
                  "host:port of every node: all of them run this command, each with its own --node")
      ->delimiter(',');
  verb.add_option("--node", options.node, "Which of --addresses this node is; node 0 prints and writes --out");
  // For --local: a socket that listens at this node's address already, so that nobody can take the port meanwhile.
  verb.add_option("--listen-fd", options.listen_fd)->group("");
  verb.add_flag("--told", options.told)->group("");  // the same: what a user should know has been said
  verb.add_option(
          "--message-bytes", options.message_bytes,
          "Size of the messages that links are measured with; default: a microbatch's activations, at most 4 MiB")
      ->check(CLI::Range(size_t{1}, kMostMessageBytes));
  verb.add_option("--stream-seconds", options.stream_s, "What each stream of messages over a link lasts at least")
      ->check(CLI::Range(0.001, 3600.0))
      ->capture_default_str();
  verb.add_option("--emulate", options.emulate,
                  "Delay messages as the first links of this network file would, to see what an emulated network does");
  verb.add_option("--connect-limit", options.connect_limit_s, "Seconds until all nodes must have met")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  verb.add_option("--limit", options.limit_minutes, "Minutes after which a node gives up")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
}

}  // namespace

void add_probe_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("probe", "Measure devices and links for a model, for plans");
  auto options = std::make_shared<Options>();
  verb->add_option("--config", options->config, "The model's config.json")->required();
  add_device_options(*verb, options->settings);
  add_network_options(*verb, *options);
  verb->add_option("--network", options->network,
                   "A network file to fill in. Nodes: names and regions are kept; this device only: links, too");
  verb->add_option("--out", options->out, "Where to write the network file");
  verb->footer(
      "Without --local and --addresses, measures this device, and writes its figures into every node of --network.\n"
      "A measured network is for its real links: emulating it on itself would delay messages twice.\n"
      "Example: skippipe probe --config config.json --samples 4 --tokens 128 --local 3 --out network.json");
  verb->callback([options, verb] { run(*options, *verb); });
}

}  // namespace skippipe
