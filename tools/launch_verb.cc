// skippipe launch: all the nodes of a run on this machine, or some of them, each in a process of its own.
#include <fmt/ranges.h>

#include <csignal>
#include <cstring>
#include <iostream>
#include <map>
#include <numeric>
#include <set>

#include "base/error.h"
#include "engine/run.h"
#include "tools/local_addresses.h"
#include "tools/processes.h"
#include "tools/stop_signals.h"
#include "tools/verbs.h"

namespace skippipe {
namespace {

using std::chrono::milliseconds;

// How long the other nodes may take to end by themselves once one has failed.
constexpr milliseconds kEndLimit(2000);
constexpr char kErrorPrefix[] = "skippipe: ";

struct Options {
  std::string run_file;
  std::string nodes;
  bool dry_run = false;
};

int parse_node(const std::string& text, int node_count) {
  size_t used = 0;
  int node = -1;
  try {
    node = std::stoi(text, &used);
  } catch (const std::exception&) {
  }
  if (used != text.size() || node < 0 || node >= node_count)
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

// The processes of a run's nodes, from their start to the end of the last one.
class Launch {
 public:
  Launch(const TrainingRun& run, const Options& options, std::vector<int> nodes)
      : run_(run),
        nodes_(std::move(nodes)),
        processes_([this](int child, const std::string& line) { on_line(child, line); },
                   [this](int child, int code) { on_exit(child, code); }) {
    LocalAddresses local;
    if (run.file.addresses.empty()) local = listen_locally(run.network.size());
    for (const int node : nodes_) {
      std::vector<std::string> command = {"/proc/self/exe", "train", options.run_file, "--node", std::to_string(node)};
      const int listener = local.listeners.empty() ? -1 : local.listeners[static_cast<size_t>(node)].get();
      if (listener >= 0) {
        command.insert(command.end(), {"--listen-fd", std::to_string(listener)});
        command.insert(command.end(), {"--addresses", fmt::format("{}", fmt::join(local.addresses, ","))});
      }
      processes_.start(command, listener);
    }
  }

  // Throws RunError if a node failed.
  void wait() {
    while (processes_.running() > 0 && !failed_) {
      processes_.wait(stop_.fd(), milliseconds(1000));
      if (stop_.take()) interrupt();
    }
    if (failed_) end_the_others();
    if (failed_) throw RunError(story());
    if (interrupted_) throw Exit{130};
  }

 private:
  struct Failure {
    int child;
    int code;
  };

  void on_line(int child, const std::string& line) {
    // A node's last words; told once, for the node that began it.
    if (line.starts_with(kErrorPrefix)) {
      last_words_[child] = line.substr(sizeof(kErrorPrefix) - 1);
    } else {
      std::cerr << name_of(child) << ": " << line << "\n";
    }
  }

  void on_exit(int child, int code) {
    if (code == 0) return;
    // What being stopped makes nodes end with.
    const bool stopped = code == 130 || code == -SIGTERM;
    if (((interrupted_ || ending_) && stopped) || (interrupted_ && code == 3)) return;
    failed_ = true;
    failures_.push_back({child, code});
  }

  void interrupt() {
    if (interrupted_) {
      processes_.signal_all(SIGKILL);
      std::cerr << "stopped at once\n";
      throw Exit{130};
    }
    interrupted_ = true;
    std::cerr << "\nstopping after this iteration; Ctrl-C again stops at once\n";
    processes_.signal_all(SIGTERM);
  }

  // Nodes that see another one fail end by themselves, and have last words to say.
  void end_the_others() {
    ending_ = true;
    processes_.signal_all(SIGTERM);
    processes_.wait(-1, kEndLimit);
    const size_t by_themselves = failures_.size();
    processes_.signal_all(SIGKILL);
    processes_.wait(-1, kEndLimit);
    failures_.resize(by_themselves);
  }

  static int weight(const Failure& failure) { return failure.code < 0 ? 0 : failure.code != 3 ? 1 : 2; }

  // The node that began it: killed, or failed for a reason of its own; else the first to see another fail.
  const Failure& first_failure() const {
    return *std::min_element(failures_.begin(), failures_.end(),
                             [](const Failure& a, const Failure& b) { return weight(a) < weight(b); });
  }

  std::string story() const {
    const Failure& first = first_failure();
    const auto words = last_words_.find(first.child);
    if (first.code < 0)
      return fmt::format("{} was killed by signal {} ({}); the run ended", name_of(first.child), -first.code,
                         strsignal(-first.code));
    return fmt::format("{}: {}", name_of(first.child),
                       words != last_words_.end() ? words->second : fmt::format("ended with exit code {}", first.code));
  }

  std::string name_of(int child) const {
    const int node = nodes_[static_cast<size_t>(child)];
    return fmt::format("node {} ({})", node, run_.network.nodes[static_cast<size_t>(node)].name);
  }

  const TrainingRun& run_;
  const std::vector<int> nodes_;
  StopSignals stop_;
  std::map<int, std::string> last_words_;  // by child
  std::vector<Failure> failures_;          // in the order in which they were seen
  bool failed_ = false;
  bool interrupted_ = false;
  bool ending_ = false;  // because of a failure
  Processes processes_;
};

// Each node checks for itself again; that all of them fit together only their launch can see.
void check_memory(const TrainingRun& run, const std::vector<int>& nodes) {
  int64_t needed = 0;
  for (const int node : nodes) {
    const MemoryPlan memory = plan_node_memory(run, node);
    memory.check_fits(memory_limit_bytes(run), run.network.nodes[static_cast<size_t>(node)].name);
    needed += memory.total_bytes();
  }
  const int64_t available = available_host_bytes();
  if (needed > available)
    throw MemoryError("the {} nodes need {}, but only {} are there", nodes.size(), human_bytes(needed),
                      human_bytes(available));
}

void launch(const Options& options) {
  const TrainingRun run = load_run(options.run_file);
  std::vector<int> nodes = parse_nodes(options.nodes, run.network.size());
  if (options.dry_run) {
    for (const int node : nodes)
      fmt::print("node {} ({})\n{}\n", node, run.network.nodes[static_cast<size_t>(node)].name,
                 plan_node_memory(run, node).table());
    check_memory(run, nodes);
    return;
  }
  if (run.file.addresses.empty() && static_cast<int>(nodes.size()) != run.network.size())
    throw ConfigError(
        "{}: network.addresses is empty, expected the address of every node where --nodes starts only some",
        options.run_file);
  check_memory(run, nodes);
  std::filesystem::create_directories(run.file.output);
  Launch(run, options, std::move(nodes)).wait();
}

}  // namespace

void add_launch_verb(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("launch", "Train with all the nodes of a run on this machine, or some of them");
  verb->add_option("run", options->run_file, "run file (TOML)")->required();
  verb->add_option("--nodes", options->nodes, "which nodes to start here, such as 0-9,12 (default: all)");
  verb->add_flag("--dry-run", options->dry_run, "print each node's memory and exit");
  verb->footer("Example: skippipe launch runs/demo/full.toml");
  verb->callback([options] { launch(*options); });
}

}  // namespace skippipe
