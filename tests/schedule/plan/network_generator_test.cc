#include "schedule/plan/network_generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "schedule/machine/simulator.h"
#include "schedule/plan/validator.h"
#include "schedule/search/planner.h"
#include "tests/expect_error.h"
#include "tests/schedule/random_plans.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

NetworkShape shape_of(uint64_t seed) {
  return {.nodes = 12, .clusters = 4, .classes = {1, 4}, .spread = 1.5, .seed = seed};
}

TEST(NetworkGenerator, DrawsWhatTheShapeSays) {
  const Network network = generate_network(shape_of(1));
  ASSERT_EQ(network.size(), 12);
  std::set<std::string> regions, devices;
  for (const NetworkNode& node : network.nodes) {
    regions.insert(node.region);
    devices.insert(node.device);
    const double times = node.forward_s / 0.05 / (node.device == "class-1" ? 4 : 1);
    EXPECT_GE(times, 1 / 1.5 - 1e-12);
    EXPECT_LE(times, 1.5 + 1e-12);
  }
  EXPECT_EQ(regions.size(), 4u);
  EXPECT_EQ(devices.size(), 2u);
  EXPECT_EQ(network.nodes[5].uplink_bytes_per_s, 0);
  EXPECT_EQ(generate_network({.uplink_mbit_per_s = 8}).nodes[5].uplink_bytes_per_s, 1e6);
  for (int from = 0; from < 12; ++from)
    for (int to = 0; to < 12; ++to) {
      if (from == to) continue;
      const Link& link = network.link(from, to);
      const bool local = from % 4 == to % 4;
      EXPECT_LE(link.latency_s, (local ? 0.001 : 0.15) * 1.5 + 1e-12);
      EXPECT_GT(link.bandwidth_bytes_per_s, 0);
      EXPECT_EQ(link.overhead_s, 0.02);
      EXPECT_NE(link.latency_s, network.link(to, from).latency_s) << "each direction for itself";
    }
}

TEST(NetworkGenerator, TheSameShapeIsTheSameNetwork) {
  const TempFolder folder;
  const auto text_of = [&](const NetworkShape& shape) {
    save_network(generate_network(shape), folder / "network.json");
    return read_file(folder / "network.json");
  };
  EXPECT_EQ(text_of(shape_of(1)), text_of(shape_of(1)));
  EXPECT_NE(text_of(shape_of(1)), text_of(shape_of(2)));
}

TEST(NetworkGenerator, ThousandsOfNodesMakeASmallFile) {
  const TempFolder folder;
  const NetworkShape shape = {.nodes = 1200, .clusters = 10};
  const Network network = generate_network(shape);
  save_network(network, folder / "network.json");
  EXPECT_LT(std::filesystem::file_size(folder / "network.json"), 1200u * 300);
  const Network again = load_network(folder / "network.json");
  ASSERT_EQ(again.size(), 1200);
  for (const auto& [from, to] : {std::pair(0, 1), {1, 0}, {3, 13}, {7, 1199}}) {
    EXPECT_DOUBLE_EQ(again.link(from, to).latency_s, network.link(from, to).latency_s);
    EXPECT_DOUBLE_EQ(again.link(from, to).transfer_s(1e6), network.link(from, to).transfer_s(1e6));
  }
  NetworkShape spread = shape;
  spread.spread = 1.1;
  SKP_EXPECT_ERROR(save_network(generate_network(spread), folder / "large.json"), PlanError,
                   "1200 nodes whose links differ makes a file of more than 64 MiB");
}

TEST(NetworkGenerator, EveryNetworkHasPlans) {
  for (const uint64_t seed : test::seeds(40)) {
    SCOPED_TRACE(test::replay_command(seed));
    PlanRequest request;
    request.network = generate_network(shape_of(seed));
    request.rules.skip_ratio = 1.0 / 3;
    request.workload = {
        .activation_bytes = 1 << 22, .stage_layers = {1, 1, 1}, .stage_gradient_bytes = {1000, 1000, 1000}};
    request.microbatches = 8;
    request.seed = seed;
    request.budget.evaluations = 50;
    for (const std::string& method : planning_methods()) {
      const PlanResult result = make_planner(method)->plan(request);
      ASSERT_TRUE(result.plan) << method << ": " << result.why;
      EXPECT_THAT(validate(*result.plan, request.network), ::testing::IsEmpty());
      Simulator simulator(request.network);
      EXPECT_EQ(simulator.run(*result.plan).iteration_s, result.plan->predicted.iteration_s);
    }
  }
}

TEST(NetworkGenerator, RefusesWhatMakesNoSense) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  SKP_EXPECT_ERROR(generate_network({.nodes = 0}), ConfigError, "nodes: found 0");
  SKP_EXPECT_ERROR(generate_network({.nodes = 3, .clusters = 4}), ConfigError, "clusters: found 4");
  SKP_EXPECT_ERROR(generate_network({.forward_s = nan}), ConfigError, "forward_s: found nan");
  SKP_EXPECT_ERROR(generate_network({.classes = {}}), ConfigError, "classes");
  SKP_EXPECT_ERROR(generate_network({.classes = {0.5}}), ConfigError, "classes: found 0.5");
  SKP_EXPECT_ERROR(generate_network({.spread = 0.5}), ConfigError, "spread: found 0.5");
  SKP_EXPECT_ERROR(generate_network({.overhead_s = -1}), ConfigError, "overhead_s: found -1");
  SKP_EXPECT_ERROR(generate_network({.uplink_mbit_per_s = -1}), ConfigError, "uplink_mbit_per_s: found -1");
  SKP_EXPECT_ERROR(generate_network({.uplink_mbit_per_s = nan}), ConfigError, "uplink_mbit_per_s: found nan");
  SKP_EXPECT_ERROR(generate_network({.slots = 0}), ConfigError, "slots: found 0");
}

}  // namespace
}  // namespace skippipe
