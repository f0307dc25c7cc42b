#include "schedule/plan/network_generator.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "base/random.h"

namespace skippipe {
namespace {

constexpr double kSquareMs = 150;
constexpr double kLeastMs = 2;             // between regions
constexpr double kMbitPerSecondMs = 8000;  // bandwidth x latency
constexpr double kLocalMs = 1;
constexpr double kLocalMbitPerSecond = 17180;  // 2 GiB/s
constexpr double kBytesPerSecondOfMbit = 1e6 / 8;

struct Place {
  double x = 0, y = 0;
};

// Negated, so that NaN fails, too.
void require(bool fine, const char* field, double found, const char* expected) {
  if (!fine) throw ConfigError("network: {}: found {}, expected {}", field, found, expected);
}

void check(const NetworkShape& shape) {
  require(shape.nodes >= 1 && shape.nodes <= kMaxNodes, "nodes", shape.nodes, "1 to 4096");
  static_assert(kMaxNodes == 4096 && kMaxSlots == 4096);
  require(shape.clusters >= 1 && shape.clusters <= shape.nodes, "clusters", shape.clusters, "1 to the number of nodes");
  require(shape.forward_s > 0 && shape.forward_s <= 1e6, "forward_s", shape.forward_s, "more than 0, at most 1e6");
  require(!shape.classes.empty(), "classes", 0, "at least one");
  for (const double factor : shape.classes)
    require(factor >= 1 && factor <= 1000, "classes", factor, "times of the fastest, 1 to 1000");
  require(shape.spread >= 1 && shape.spread <= 1000, "spread", shape.spread, "1 to 1000");
  require(shape.overhead_s >= 0 && shape.overhead_s <= 1e6, "overhead_s", shape.overhead_s, "0 to 1e6");
  require(shape.uplink_mbit_per_s >= 0 && shape.uplink_mbit_per_s <= 1e12, "uplink_mbit_per_s", shape.uplink_mbit_per_s,
          "more than 0, at most 1e12, or 0: not shared");
  require(shape.slots >= 1 && shape.slots <= kMaxSlots, "slots", shape.slots, "1 to 4096");
}

}  // namespace

Network generate_network(const NetworkShape& shape) {
  check(shape);
  Random random(shape.seed, {static_cast<uint64_t>(shape.nodes), static_cast<uint64_t>(shape.clusters)});
  const double log_spread = std::log(shape.spread);
  const auto spread = [&] { return std::exp(random.uniform(-log_spread, log_spread)); };
  std::vector<Place> places(static_cast<size_t>(shape.clusters));
  for (Place& place : places) place = {random.uniform(), random.uniform()};

  Network network;
  for (int i = 0; i < shape.nodes; ++i) {
    const size_t device_class = random.below(shape.classes.size());
    const int region = i % shape.clusters;
    network.nodes.push_back({.name = fmt::format("region-{}-node-{}", region, i / shape.clusters),
                             .region = fmt::format("region-{}", region),
                             .device = fmt::format("class-{}", device_class),
                             .forward_s = shape.forward_s * shape.classes[device_class] * spread(),
                             .slots = shape.slots,
                             .uplink_bytes_per_s = shape.uplink_mbit_per_s * kBytesPerSecondOfMbit});
  }
  network.links.resize(network.nodes.size() * network.nodes.size());
  for (int from = 0; from < shape.nodes; ++from)
    for (int to = 0; to < shape.nodes; ++to) {
      if (from == to) continue;
      const Place &a = places[static_cast<size_t>(from % shape.clusters)],
                  &b = places[static_cast<size_t>(to % shape.clusters)];
      const bool local = from % shape.clusters == to % shape.clusters;
      const double distance_ms = std::max(kLeastMs, std::hypot(a.x - b.x, a.y - b.y) / std::numbers::sqrt2 * kSquareMs);
      const double latency_ms = (local ? kLocalMs : distance_ms) * spread();
      const double mbit_per_s = (local ? kLocalMbitPerSecond : kMbitPerSecondMs / distance_ms) * spread();
      network.link(from, to) = {.latency_s = latency_ms * 1e-3,
                                .bandwidth_bytes_per_s = mbit_per_s * kBytesPerSecondOfMbit,
                                .overhead_s = shape.overhead_s};
    }
  return network;
}

}  // namespace skippipe
