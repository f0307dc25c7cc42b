// A network of nodes measured in one process, and the arithmetic from samples to links. No figure is held against a
// clock: that every part is there, that wrong nodes are refused, and that nothing waits for ever.
#include "engine/probe/network_probe.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "comm/transport/in_process_transport.h"
#include "engine/checkpoint/checkpoint_writer.h"
#include "engine/probe/probe_documents.h"
#include "engine/probe/slots.h"
#include "kernels/cpu_backend.h"
#include "tests/engine/test_model.h"
#include "tests/expect_error.h"
#include "tests/test_backend.h"

namespace skippipe {
namespace {

using namespace std::chrono_literals;
using test::tiny_config;

TEST(LinkMeasurement, FollowsFromTheSamples) {
  LinkSamples samples;
  samples.round_trip_s = {0.04, 0.05, 0.06};
  // Latency 25 ms there, and 25 ms back.
  samples.single_s = {0.325, 0.225, 0.425, 0.225, 0.425};
  samples.in_flight = 4;
  samples.stream_bytes_per_s = {5e6, 10e6, 20e6};
  samples.both_ways_bytes_per_s = {7e6};
  const LinkMeasurement measured = summarize(samples);
  EXPECT_DOUBLE_EQ(measured.latency_s.median, 0.025);
  EXPECT_DOUBLE_EQ(measured.transfer_s.low, 0.2);
  EXPECT_DOUBLE_EQ(measured.transfer_s.median, 0.3);
  EXPECT_DOUBLE_EQ(measured.transfer_s.high, 0.4);
  EXPECT_EQ(measured.bytes_per_s.median, 10e6);
  EXPECT_EQ(measured.both_ways_bytes_per_s.median, 7e6);
  EXPECT_EQ(measured.in_flight, 4);

  // 300 ms for 2 MB: 25 of latency, 200 on the line, 75 more.
  const Link link = link_of(measured, 2e6);
  EXPECT_DOUBLE_EQ(link.latency_s, 0.025);
  EXPECT_DOUBLE_EQ(link.bandwidth_bytes_per_s, 10e6);
  EXPECT_DOUBLE_EQ(link.overhead_s, 0.075);
  EXPECT_DOUBLE_EQ(link.transfer_s(2e6), measured.transfer_s.median);
  // A message alone may be faster than one in a stream.
  EXPECT_EQ(link_of(measured, 20e6).overhead_s, 0);

  const Quartiles alone = one_in_flight_bytes_per_s(measured, 1'200'000);
  EXPECT_DOUBLE_EQ(alone.low, 3e6);
  EXPECT_DOUBLE_EQ(alone.median, 4e6);
  EXPECT_DOUBLE_EQ(alone.high, 6e6);
}

// What a shaped link does: latency + bytes / bandwidth there, latency back, one message each bytes / bandwidth.
TEST(LinkMeasurement, AnIdealLinkGivesItselfBack) {
  const Link ideal = {.latency_s = 0.02, .bandwidth_bytes_per_s = 1e7, .overhead_s = 0};
  const double bytes = 5e5;
  LinkSamples samples;
  samples.round_trip_s = {2 * ideal.latency_s};
  samples.single_s = {ideal.transfer_s(bytes) + ideal.latency_s};
  samples.both_ways_bytes_per_s = samples.stream_bytes_per_s = {ideal.bandwidth_bytes_per_s};
  const Link link = link_of(summarize(samples), bytes);
  EXPECT_DOUBLE_EQ(link.latency_s, ideal.latency_s);
  EXPECT_DOUBLE_EQ(link.bandwidth_bytes_per_s, ideal.bandwidth_bytes_per_s);
  EXPECT_NEAR(link.overhead_s, 0, 1e-12);
}

TEST(Slots, AsManyAsFitBelowTheReserve) {
  const auto backend = make_cpu_backend();
  Context context;
  context.backend = backend.get();
  const StageSpec spec{.config = tiny_config(2), .layout = {0, 0, 2}, .batch = {2, 16}};
  const auto bytes_of = [&](int slots) {
    MemoryPlan plan;
    StageSpec with_slots = spec;
    with_slots.slots = slots;
    Stage::plan_memory(plan, with_slots, context);
    CheckpointWriter::plan_memory(plan);
    return plan.total_bytes();
  };
  const auto memory_for = [&](int64_t bytes, int64_t less = 0) {
    return AvailableMemory{static_cast<int64_t>(std::ceil(static_cast<double>(bytes) / kStageMemoryShare)) - less,
                           "a limit"};
  };
  for (const int slots : {1, 2, 5}) {
    EXPECT_EQ(fitting_slots(spec, context, memory_for(bytes_of(slots)), 8), slots);
    EXPECT_EQ(fitting_slots(spec, context, memory_for(bytes_of(slots + 1), 2), 8), slots);
  }
  EXPECT_EQ(fitting_slots(spec, context, memory_for(bytes_of(20)), 8), 8);
  SKP_EXPECT_ERROR(fitting_slots(spec, context, memory_for(bytes_of(1), 2), 8), MemoryError, "a stage with one slot");
  SKP_EXPECT_ERROR(fitting_slots(spec, context, memory_for(bytes_of(1), 2), 8), MemoryError, "(75 % of a limit)");
}

TEST(Slots, AWorkloadTellsWhatItsStagesTake) {
  const auto backend = make_cpu_backend();
  Context context;
  context.backend = backend.get();
  Workload workload;
  workload.stage_layers = {1, 2};
  describe_memory(workload, tiny_config(3), {2, 16}, Dtype::kF32);
  ASSERT_EQ(workload.stage_state_bytes.size(), 2u);
  MemoryPlan plan;
  Stage::plan_memory(plan, {.config = tiny_config(3), .layout = {1, 1, 2}, .batch = {2, 16}, .slots = 5}, context);
  EXPECT_EQ(workload.stage_state_bytes[1] + 5 * workload.stage_slot_bytes[1],
            plan.total_bytes() + kCheckpointStates * plan.bytes(Region::kGradients))
      << "what checkpoints are written from counts";
  EXPECT_GT(workload.stage_state_bytes[0], 0);

  Workload less;
  less.stage_layers = {1, 2};
  describe_memory(less, tiny_config(3), {2, 16}, Dtype::kF32, Recompute::kBlock);
  EXPECT_LT(less.stage_slot_bytes[1], workload.stage_slot_bytes[1]);
}

#ifdef SKIPPIPE_HAS_SIMT
// Where a GPU keeps what checkpoints are written from is no part of its memory.
TEST(Slots, AGpuHasRoomForCheckpointsOnTheHost) {
  const auto cpu = make_cpu_backend();
  std::string why_none;
  const auto gpu = testing::make_test_backend("simt", why_none);
  const StageSpec spec{.config = tiny_config(2), .layout = {0, 0, 2}, .batch = {2, 16}};
  const auto context_of = [](Backend& backend) {
    Context context;
    context.backend = &backend;
    return context;
  };
  MemoryPlan plan;
  Stage::plan_memory(plan, spec, context_of(*cpu));
  const int64_t states = kCheckpointStates * plan.bytes(Region::kGradients);
  EXPECT_GE(stage_memory(spec, context_of(*cpu)).state_bytes, plan.bytes(Region::kWeights) + states);
  const StageMemory on_gpu = stage_memory(spec, context_of(*gpu));
  MemoryPlan gpu_plan(Device::kCuda);
  Stage::plan_memory(gpu_plan, spec, context_of(*gpu));
  EXPECT_EQ(on_gpu.state_bytes + on_gpu.slot_bytes, gpu_plan.bytes(Place::kDevice));
  EXPECT_EQ(fitting_slots(spec, context_of(*gpu), {int64_t{1} << 30, "a limit"}, 8), 8);
}
#endif

TEST(DeviceWaves, HaveOneNodeOfEveryMachine) {
  EXPECT_EQ(device_waves({"a", "b", "a", "c", "b", "a"}), (std::vector<std::vector<int>>{{0, 1, 3}, {2, 4}, {5}}));
}

ProbeResult some_device(int node) {
  ProbeResult result;
  result.forward = {1e-3, 0.9e-3, 1.2e-3};
  result.step_gradient_bytes = 100;
  result.forward_s = 1e-3 * (node + 1);
  result.backward_over_forward = 2;
  result.loss_s = 0.5;
  result.step_s_per_byte = 1e-10;
  result.memory_bytes = 1'000'000;
  result.device = fmt::format("cuda:{}", node);
  result.slots = node + 2;
  result.fitting_slots = node + 1;
  return result;
}

TEST(ProbeDocuments, AreReadBackAndOthersRefused) {
  const nlohmann::json device = to_json(some_device(3));
  EXPECT_EQ(to_json(read_probe_result(JsonReader(device, "report"))), device);
  LinkMeasurement measured;
  measured.latency_s = {2, 1, 3};
  measured.in_flight = 8;
  const nlohmann::json link = to_json(measured);
  EXPECT_EQ(to_json(read_link_measurement(JsonReader(link, "report"))), link);

  nlohmann::json wrong = link;
  wrong["latency_s"] = {3, 2, 1};
  SKP_EXPECT_ERROR(read_link_measurement(JsonReader(wrong, "report")), FileError, "report: latency_s[1]");
  wrong["latency_s"] = {1, 2};
  SKP_EXPECT_ERROR(read_link_measurement(JsonReader(wrong, "report")), FileError, "three quartiles");
  wrong = device;
  wrong["slots"] = 0;
  SKP_EXPECT_ERROR(read_probe_result(JsonReader(wrong, "report")), FileError, "report: slots");
  wrong = device;
  wrong["fitting_slots"] = 6;
  SKP_EXPECT_ERROR(read_probe_result(JsonReader(wrong, "report")), FileError, "report: fitting_slots: found 6");
  wrong["device"] = std::string(1000, 'x');
  SKP_EXPECT_ERROR(read_probe_result(JsonReader(wrong, "report")), FileError, "report: device");
  SKP_EXPECT_ERROR(read_probe_result(JsonReader(nlohmann::json("nonsense"), "report")), FileError, "report");
}

class NetworkProbeTest : public ::testing::Test {
 protected:
  static constexpr int kNodes = 3;

  static NetworkProbeSettings settings() {
    NetworkProbeSettings settings;
    settings.agreed = {{"--samples", "4"}, {"--tokens", "128"}};
    settings.links = {.message_bytes = 20'000, .repetitions = 3, .stream_s = 0.002, .progress_limit = 60s};
    settings.limit = 120s;
    return settings;
  }

  // Runs body on a thread per node.
  static void run_nodes(const std::function<void(int)>& body) {
    std::vector<std::thread> threads;
    for (int node = 0; node < kNodes; ++node) threads.emplace_back(body, node);
    for (std::thread& thread : threads) thread.join();
  }

  NetworkProbe make_probe(int node, NetworkProbeSettings with, NetworkProbe::DeviceProbe device = {}) {
    if (!device) device = [node](int) { return some_device(node); };
    with.machine = node < 2 ? "first" : "second";
    return {network_.transport(node), with, std::move(device), [this](int done, int total) {
              EXPECT_EQ(total, kNodes * kNodes);
              EXPECT_GT(done, progress_);
              progress_ = done;
            }};
  }

  InProcessNetwork network_{kNodes, 1};
  int progress_ = 0;  // node 0's thread
};

TEST_F(NetworkProbeTest, GathersAllDevicesAndLinks) {
  std::optional<NetworkFigures> figures;
  std::atomic<int> on_first_machine = 0;
  run_nodes([&](int node) {
    NetworkProbe probe = make_probe(node, settings(), [&, node](int nodes_here) {
      EXPECT_EQ(nodes_here, node < 2 ? 2 : 1);
      if (node < 2) {
        EXPECT_EQ(++on_first_machine, 1) << "devices of one machine are measured one after another";
        std::this_thread::yield();
        --on_first_machine;
      }
      return some_device(node);
    });
    auto result = probe.run();
    EXPECT_EQ(result.has_value(), node == 0);
    if (result) figures = std::move(result);
    EXPECT_TRUE(network_.transport(node).close(60s).ok());
  });
  ASSERT_TRUE(figures);
  EXPECT_EQ(progress_, kNodes * kNodes);

  Network base;
  base.nodes = {{.name = "a", .region = "x"}, {.name = "b", .region = "x"}, {.name = "c", .region = "y"}};
  const Network network = measured_network(base, *figures, 20'000);
  for (int node = 0; node < kNodes; ++node) {
    const NetworkNode& measured = network.nodes[static_cast<size_t>(node)];
    EXPECT_EQ(measured.name, base.nodes[static_cast<size_t>(node)].name);
    EXPECT_EQ(measured.region, base.nodes[static_cast<size_t>(node)].region);
    EXPECT_DOUBLE_EQ(measured.forward_s, 1e-3 * (node + 1));
    EXPECT_EQ(measured.slots, node + 2);
    EXPECT_EQ(measured.device, fmt::format("cuda:{}", node));
    EXPECT_EQ(measured.memory_bytes, 1'000'000);
    for (int to = 0; to < kNodes; ++to) {
      const Link& link = network.link(node, to);
      EXPECT_EQ(link.latency_s > 0, node != to);
      EXPECT_EQ(link.bandwidth_bytes_per_s > 0, node != to);
      EXPECT_GE(link.overhead_s, 0);
    }
  }
}

TEST_F(NetworkProbeTest, NodesThatDisagreeSaySo) {
  std::atomic<int> refusals = 0;
  run_nodes([&](int node) {
    NetworkProbeSettings own = settings();
    if (node == 2) own.agreed[1].second = "64";
    NetworkProbe probe = make_probe(node, own);
    try {
      probe.run();
      ADD_FAILURE() << "node " << node << " probed";
    } catch (const ConfigError& error) {
      EXPECT_EQ(std::string(error.what()),
                fmt::format("node {} probes with --tokens {}, this node with {}: expected the same on all nodes",
                            node == 2 ? 0 : 2, node == 2 ? 128 : 64, node == 2 ? 64 : 128));
      ++refusals;
    }
  });
  EXPECT_EQ(refusals, kNodes);
}

TEST_F(NetworkProbeTest, ANodeThatFailsInMidProbeEndsIt) {
  run_nodes([&](int node) {
    NetworkProbe probe = make_probe(node, settings(), [this, node](int) {
      if (node < 2) return some_device(node);
      network_.fail(2, "pulled the plug");
      throw RunError("of no interest");
    });
    if (node == 2) {
      SKP_EXPECT_ERROR(probe.run(), RunError, "of no interest");
    } else {
      SKP_EXPECT_ERROR(probe.run(), PeerError, "node");
    }
  });
}

TEST_F(NetworkProbeTest, ADeviceThatCannotBeMeasuredEndsIt) {
  run_nodes([&](int node) {
    NetworkProbe probe = make_probe(node, settings(), [node](int) -> ProbeResult {
      if (node == 1) throw MemoryError("does not fit");
      return some_device(node);
    });
    if (node == 1) {
      SKP_EXPECT_ERROR(probe.run(), MemoryError, "does not fit");
    } else {
      SKP_EXPECT_ERROR(probe.run(), PeerError, "left before all was measured");
    }
  });
}

TEST_F(NetworkProbeTest, NothingWaitsForEver) {
  NetworkProbeSettings soon = settings();
  soon.limit = 0s;
  NetworkProbe probe = make_probe(0, soon);  // the others never come
  SKP_EXPECT_ERROR(probe.run(), RunError, "did not end within 0 s; this node still waits for the settings of node 1");
}

}  // namespace
}  // namespace skippipe
