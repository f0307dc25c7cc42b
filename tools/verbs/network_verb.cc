// skippipe network: a network drawn at random, to plan for before there are machines.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "schedule/plan/network_generator.h"
#include "tools/verbs/verbs.h"

namespace skippipe {
namespace {

struct Options {
  NetworkShape shape;
  double overhead_ms = 20;
  std::string out;
};

void run(const Options& options) {
  NetworkShape shape = options.shape;
  shape.overhead_s = options.overhead_ms * 1e-3;
  const Network network = generate_network(shape);
  save_network(network, options.out);
  fmt::print("{}: {} nodes in {} regions\n", options.out, network.size(), shape.clusters);
}

}  // namespace

void add_network_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("network", "Draw a network at random, to plan for");
  auto options = std::make_shared<Options>();
  NetworkShape& shape = options->shape;
  verb->add_option("--nodes", shape.nodes, "Nodes")->check(CLI::Range(1, kMaxNodes))->capture_default_str();
  verb->add_option("--clusters", shape.clusters, "Regions that they are in")
      ->check(CLI::Range(1, kMaxNodes))
      ->capture_default_str();
  verb->add_option("--classes", shape.classes, "Device classes, by how many times the fastest's forward time: 1,2,4")
      ->delimiter(',')
      ->check(CLI::Range(1.0, 1000.0));
  verb->add_option("--spread", shape.spread, "Speeds of a class, and links, differ by up to this factor either way")
      ->check(CLI::Range(1.0, 1000.0))
      ->capture_default_str();
  verb->add_option("--forward-s", shape.forward_s, "Forward time of the fastest class, per layer and sample")
      ->check(CLI::Range(1e-9, 1e6))
      ->capture_default_str();
  verb->add_option("--overhead-ms", options->overhead_ms, "Of every message")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  verb->add_option("--uplink-mbit-per-s", shape.uplink_mbit_per_s,
                   "Of every node, shared by all that it sends; default: messages share their links only")
      ->check(CLI::Range(1e-6, 1e12));
  verb->add_option("--slots", shape.slots, "Slots of every node")->check(CLI::Range(1, 4096))->capture_default_str();
  verb->add_option("--seed", shape.seed, "Of the draw")->capture_default_str();
  verb->add_option("--out", options->out, "The network file to write (JSON)")->required();
  verb->footer("Example: skippipe network --nodes 64 --clusters 8 --classes 1,2,4 --spread 1.5 --out network.json");
  verb->callback([options] { run(*options); });
}

}  // namespace skippipe
