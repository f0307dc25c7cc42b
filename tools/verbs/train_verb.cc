// skippipe train: one node of a run.
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "comm/transport/shaped_transport.h"
#include "engine/model/device.h"
#include "engine/run/emulated_links.h"
#include "engine/run/metrics.h"
#include "engine/run/preflight.h"
#include "engine/run/resume.h"
#include "engine/run/run_description.h"
#include "engine/run/run_memory.h"
#include "engine/trace/trace_file.h"
#include "tools/processes/stop_signals.h"
#include "tools/verbs/cpu_remarks.h"
#include "tools/verbs/device_option.h"
#include "tools/verbs/go_on.h"
#include "tools/verbs/join_nodes.h"
#include "tools/verbs/measured_remark.h"
#include "tools/verbs/node_trace.h"
#include "tools/verbs/start_options.h"
#include "tools/verbs/training_progress.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

struct Options {
  std::string run_file;
  int node = 0;
  std::vector<std::string> addresses;
  int listen_fd = -1;
  StartChoice start;
  DeviceName device;
  std::string dtype;                   // empty: the run file's
  std::vector<std::string> recompute;  // by node; empty: this node chooses by itself
  bool dry_run = false;
  bool told = false;
  TraceOptions trace;
};

std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
}

const std::string& name_of(const TrainingRun& run, int node) {
  return run.network.nodes[static_cast<size_t>(node)].name;
}

UcxOptions transport_options(const TrainingRun& run, const Options& options) {
  UcxOptions transport;
  transport.run_id = run.file.run_id;
  transport.connect_limit = milliseconds_of(run.file.connect_limit_s);
  transport.heartbeat_interval = milliseconds_of(run.file.heartbeat_interval_s);
  transport.silence_limit = milliseconds_of(run.file.silence_limit_s);
  transport.payload_checksums = run.file.payload_checksums;
  transport.logger = make_logger(name_of(run, options.node));
  return transport;
}

// What a stop signal stops: the node while there is one, before that the process.
class StopTarget {
 public:
  class Scope {
   public:
    Scope(StopTarget& target, Node& node) : target_(target) { target_.set(&node); }
    ~Scope() { target_.set(nullptr); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    StopTarget& target_;
  };

  void stop() {
    const std::lock_guard lock(mutex_);
    if (!met_) _exit(130);
    if (node_ != nullptr) node_->request_stop();
  }

 private:
  void set(Node* node) {
    const std::lock_guard lock(mutex_);
    met_ = true;
    node_ = node;
  }

  std::mutex mutex_;
  bool met_ = false;  // all nodes have; guarded by mutex_, like node_
  Node* node_ = nullptr;
};

// A trace tells most of a run that failed.
Node::End run_traced(Node& node, std::optional<NodeTrace>& trace) {
  try {
    return node.run();
  } catch (const Error&) {
    if (trace) trace->finish();
    throw;
  }
}

const std::vector<std::string>& addresses_of(const TrainingRun& run, const Options& options) {
  const std::vector<std::string>& addresses = options.addresses.empty() ? run.file.addresses : options.addresses;
  if (static_cast<int>(addresses.size()) != run.network.size())
    throw ConfigError("{}: network.addresses: found {} addresses, expected one for each of {} nodes", options.run_file,
                      addresses.size(), run.network.size());
  return addresses;
}

void set_recompute(TrainingRun& run, const Options& options, Backend& backend) {
  if (options.recompute.empty()) return choose_recompute(run, backend, {});
  if (options.recompute.size() != run.network.nodes.size())
    throw UsageError("--recompute: found {}, expected one for each of {} nodes", options.recompute.size(),
                     run.network.size());
  for (const std::string& name : options.recompute) run.recompute.push_back(parse_recompute(name));
}

// One node tells of the run: the first of stage 0. It shows how the run goes and keeps run.json and the metrics.
class RunTeller {
 public:
  RunTeller(const TrainingRun& run, Backend& backend, const Logger& logger) : progress_(run) {
    create_output_folder(run);
    if (run.first_iteration == 0) std::filesystem::remove(run.file.output / "evaluation.json");  // of another run
    write_run_description(run, backend);
    metrics_.emplace(run.file.output / "metrics.jsonl", run.sampler_shape(), logger);
  }

  void tell_of_start(const TrainingRun& run, const std::string& memory, const DeviceName& device,
                     const std::optional<NodeTrace>& trace) {
    if (!run.resumed_from.empty()) {
      fmt::print("resuming from iteration {} of {}, with sample {} of the data\n", run.first_iteration,
                 run.resumed_from.string(), run.first_sample);
      for (const std::string& change : changes_since(load_checkpoint_manifest(run.resumed_from), run))
        fmt::print("  {}\n", change);
    }
    fmt::print("device: {}\n{}", describe_device(device), memory);
    if (trace) fmt::print("{}\n", trace->describe());
    std::fflush(stdout);
  }

  void tell_of(const IterationReport& report) {
    metrics_->write(report);
    progress_.show(report);
  }

  void tell_of_end(const TrainingRun& run, const Node& node, bool finished) {
    const std::string text = fmt::format(
        "{} after {} iterations; checkpoint in {}\n", finished ? "finished" : "stopped", node.iterations_done(),
        (checkpoints_folder(run.file.output) / checkpoint_name(node.iterations_done())).string());
    std::fputs(text.c_str(), stdout);  // does not throw where the terminal is gone
  }

 private:
  std::optional<MetricsWriter> metrics_;
  TrainingProgress progress_;
};

// After the last iteration: the last checkpoint, the trace, and goodbye. Throws where the checkpoint is not whole.
void end_run(Node& node, std::optional<NodeTrace>& trace, const Logger& logger) {
  const Status saved = node.write_last_checkpoint();
  if (trace) trace->finish();
  const Status left = node.leave();
  if (!left.ok()) logger->warn("{}", left.message());
  if (saved.code() == StatusCode::kPeerGone) throw PeerError("the last checkpoint is not whole: {}", saved.message());
  if (!saved.ok()) throw RunError("the last checkpoint is not whole: {}", saved.message());
}

void train(const Options& options, const CLI::App& verb) {
  StopSignals stop_signals(kSameStop);
  StopTarget stop_target;
  const StopWatcher watcher(stop_signals, [&] {
    // The others come from who waits for the end.
    if (stop_signals.last() == "SIGHUP" || stop_signals.last() == "SIGXCPU")
      std::fputs(("stopping: " + stop_signals.last() + "\n").c_str(), stderr);  // which may be a terminal that is gone
    stop_target.stop();
  });
  TrainingRun run = load_run(options.run_file);
  run.node_dtype = options.dtype;
  const std::optional<TraceLimits> limits = trace_limits(options.trace);
  if (limits) require_place_of_traces(run);
  if (options.node < 0 || options.node >= run.network.size())
    throw UsageError("--node: found {}, expected 0 to {}", options.node, run.network.size() - 1);
  auto backend = make_backend(options.device, parse_attention_kernels(run.file.attention));
  set_recompute(run, options, *backend);
  const Logger logger = make_logger(name_of(run, options.node));
  const auto tell_of_broken = [&](const auto&, const std::string& problem) {
    logger->warn("passed over: {}", problem);
  };
  const std::array only_this = {options.node};
  if (options.dry_run) {
    fmt::print("{}", memory_table(run, options.node, *backend));
    std::fflush(stdout);  // before what may be wrong
    check_memory(run, *backend, options.node);
    if (options.start.resumes()) choose_start(run, options.start, tell_of_broken);
    return preflight(run, only_this);
  }
  const std::vector<std::string>& addresses = addresses_of(run, options);
  choose_start(run, options.start, tell_of_broken);
  preflight(run, only_this);
  const ComputeChoice choice{options.device, "compute.threads", static_cast<int>(run.file.threads), run.dtype()};
  (void)usable_threads(choice);
  if (!options.told) {
    warn_of_other_measurement(run);
    print_cpu_remarks(choice);
  }
  NodeParts parts(run, options.node, std::move(backend));
  const std::unique_ptr<Transport> transport =
      join_nodes(transport_options(run, options), options.node, addresses, options.listen_fd);
  std::optional<ShapedTransport> shaped;
  if (run.file.emulate_links) emulate_links(shaped, *transport, run.network, options.node);
  Transport& links = shaped ? static_cast<Transport&>(*shaped) : *transport;
  std::filesystem::remove(trace_part_file(run.file.output, options.node));  // of another run
  std::optional<NodeTrace> trace;
  if (limits) trace.emplace(run, options.node, links, *limits);
  Transport& used = trace ? trace->transport() : links;

  NodeHooks hooks;
  std::optional<RunTeller> teller;
  if (tells_of_run(run, options.node)) {
    teller.emplace(run, parts.backend(), logger);
    teller->tell_of_start(run, memory_table(run, options.node, parts.backend()), options.device, trace);
    hooks.on_report = [&](const IterationReport& report) { teller->tell_of(report); };
  }
  if (trace) hooks.tracer = &trace->tracer();
  const std::unique_ptr<Node> node = parts.make_node(used, std::move(hooks), logger);
  const StopTarget::Scope stoppable(stop_target, *node);
  const auto run_node = [&] {
    const Node::End end = run_traced(*node, trace);
    if (end == Node::End::kLeft) throw Exit{130};
    end_run(*node, trace, logger);
    const bool finished = end == Node::End::kFinished;
    if (teller) teller->tell_of_end(run, *node, finished);
    if (!finished) throw Exit{130};
  };
  options.told ? run_node() : run_to_its_end(run.file.output, verb, run_node);
}

}  // namespace

void add_train_verb(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("train", "Train as one node of a run");
  verb->add_option("run", options->run_file, "run file (TOML)")->required();
  verb->add_option("--node", options->node, "which node of the network this process is")->required();
  verb->add_option("--addresses", options->addresses, "host:port of every node, instead of the run file's")
      ->delimiter(',');
  // For `launch`: a socket that listens at this node's address already, so that nobody can take the port meanwhile.
  verb->add_option("--listen-fd", options->listen_fd)->group("");
  add_start_options(*verb, options->start);
  verb->add_flag("--is-whole", options->start.is_whole)->group("");  // for `launch`, too
  verb->add_flag("--told", options->told)->group("");  // for `launch`, which has said what a user should know
  add_device_option(*verb, options->device);
  verb->add_option("--dtype", options->dtype, "what this node computes in, instead of the run file's compute.dtype")
      ->check(CLI::IsMember({"f32", "bf16"}));
  // For `launch`, whose nodes share a machine's memory: what each node of the run recomputes.
  verb->add_option("--recompute", options->recompute)->delimiter(',')->group("");
  verb->add_flag("--dry-run", options->dry_run, "print the node's memory and exit");
  add_trace_options(*verb, options->trace);
  verb->footer("Example: skippipe train run.toml --node 3");
  verb->callback([options, verb] { train(*options, *verb); });
}

}  // namespace skippipe
