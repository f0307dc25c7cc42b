// Gradients summed between devices: whole nodes on simulated devices with a simulated NCCL, over a network in this
// process.
#include "engine/node/device_sum.h"

#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <exception>
#include <map>
#include <numeric>
#include <thread>
#include <tuple>

#include "base/error.h"
#include "base/random.h"
#include "comm/point_to_point/documents.h"
#include "comm/transport/in_process_transport.h"
#include "engine/run/run.h"
#include "kernels/copy.h"
#include "kernels/cpu_backend.h"
#include "schedule/machine/ranking.h"
#include "schedule/machine/simulator.h"
#include "tests/simt/simt_backend.h"
#include "tests/simt/simulated_nccl.h"
#include "tests/temp_folder.h"
#include "tests/wait_until.h"

namespace skippipe::testing {
namespace {

using simt::NcclFault;
using simt::SimulatedNccl;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr uint32_t kIterations = 3;
constexpr int kVocabulary = 37;

struct NodeResult {
  std::string how;  // its gradients were summed
  bool between_devices = false;
  std::vector<std::vector<float>> gradients;  // after each iteration's sum
  std::string error;                          // why it ended; empty: as it should
};

// A small model, cut into stages of a layer, each on as many nodes. Node n is in stage n mod `stages`.
TrainingRun make_run(int stages, int replicas, const std::filesystem::path& folder) {
  TrainingRun run;
  run.model.channels = 16;
  run.model.feed_forward = 24;
  run.model.layers = stages;
  run.model.heads = 4;
  run.model.kv_heads = 2;
  run.model.head_dim = 4;
  run.model.vocabulary = kVocabulary;
  run.model.max_positions = 64;
  run.model.initializer_range = 0.3;
  run.plan.stages.resize(static_cast<size_t>(stages));
  for (int n = 0; n < stages * replicas; ++n) {
    const std::string name = fmt::format("node-{}", n);
    NetworkNode& node = run.network.nodes.emplace_back();
    node.name = name;
    node.forward_s = 1;
    node.slots = 2;
    run.plan.node_names.push_back(name);
    run.plan.node_slots.push_back(2);
    run.plan.stages[static_cast<size_t>(n % stages)].push_back(n);
  }
  run.network.links.resize(run.network.nodes.size() * run.network.nodes.size());
  run.plan.method = "test";
  run.plan.workload.stage_layers.assign(static_cast<size_t>(stages), 1);
  run.plan.workload.activation_bytes = 1000;
  run.plan.workload.stage_gradient_bytes.assign(static_cast<size_t>(stages), 1000);
  run.plan.workload.samples = 2;
  run.plan.workload.exchange_norm = true;
  for (int m = 0; m < 2 * replicas; ++m) {
    PlannedMicrobatch microbatch;
    for (int s = 0; s < stages; ++s) microbatch.visits.push_back({.node = s + stages * ((m + s) % replicas)});
    run.plan.microbatches.push_back(microbatch);
  }
  assign_priorities(run.plan);
  Simulator simulator(run.network);
  SKP_CHECK(complete_plan(run.plan, simulator));

  run.file.seed = 5;
  run.file.iterations = kIterations;
  run.file.samples = 2;
  run.file.tokens = 7;
  run.file.schedule = "constant";
  run.file.clip_norm = 0.5;
  run.file.train_tokens = folder / "tokens.shard";
  Random random(1);
  std::vector<int32_t> tokens(400);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(kVocabulary));
  TokenShardWriter writer(run.file.train_tokens, kVocabulary, 0);
  writer.append(tokens);
  writer.end_document();
  writer.finish();
  return run;
}

// A run whose nodes compute on simulated devices of their own, each with its NCCL, unless a test changes that.
class DeviceSumTest : public ::testing::Test {
 protected:
  void make(int stages, int replicas) {
    run_ = make_run(stages, replicas, folder_.path());
    devices_.clear();
    for (int node = 0; node < stages * replicas; ++node) devices_.push_back({std::make_shared<SimulatedNccl>()});
  }
  SimulatedNccl& nccl(int node) { return *devices_[static_cast<size_t>(node)].nccl; }

  std::vector<NodeResult> train() {
    InProcessNetwork network(run_.network.size(), 1);
    std::vector<NodeResult> results(devices_.size());
    {
      std::vector<std::jthread> threads;
      for (int node = 0; node < run_.network.size(); ++node)
        threads.emplace_back([&, node] { train(node, network, results[static_cast<size_t>(node)]); });
    }
    return results;
  }

  void train(int node, InProcessNetwork& network, NodeResult& result) {
    const Device& device = devices_[static_cast<size_t>(node)];
    try {
      NodeParts parts(run_, node,
                      device.is_cpu
                          ? make_cpu_backend()
                          : simt::make_simt_backend({.seed = static_cast<uint64_t>(node) + 1, .nccl = device.nccl}));
      NodeHooks hooks;
      hooks.on_reduction = [&](const std::string& how, bool between_devices) {
        result.how = how;
        result.between_devices = between_devices;
      };
      hooks.on_task = [&](TaskKind kind, int) {
        if (on_backward_ && kind == TaskKind::kBackward)
          on_backward_(node, static_cast<uint32_t>(result.gradients.size()));
      };
      hooks.before_step = [&](uint32_t, Stage& stage) {
        std::vector<float>& sum = result.gradients.emplace_back(static_cast<size_t>(stage.gradients().elements()));
        copy(stage.context(), host_tensor(std::span(sum)), stage.gradients());
        finish(stage.context());
      };
      Transport& transport = network.transport(node);
      const auto running = parts.make_node(transport, std::move(hooks), make_null_logger());
      try {
        running->run();
      } catch (...) {
        // As the end of its process would be.
        network.fail(node, fmt::format("node {} was lost", node));
        throw;
      }
      if (const Status left = running->leave(); !left.ok()) result.error = left.message();
    } catch (const std::exception& error) {
      result.error = error.what();
    }
  }

  // The replicas of each stage have the same sums, and those that the network's would be.
  void expect_right_sums(const std::vector<NodeResult>& results) {
    for (size_t node = 0; node < results.size(); ++node) {
      EXPECT_EQ(results[node].error, "") << "node " << node;
      ASSERT_EQ(results[node].gradients.size(), run_.file.iterations) << "node " << node;
    }
    for (const std::vector<int>& replicas : run_.plan.stages)
      for (const int node : replicas)
        EXPECT_EQ(results[static_cast<size_t>(node)].gradients, results[static_cast<size_t>(replicas[0])].gradients)
            << "node " << node;
    const bool mixed = std::ranges::any_of(devices_, [](const Device& device) { return device.is_cpu; });
    if (mixed) return;  // the CPU computes other bits
    const std::vector<NodeResult>& expected = over_the_network();
    for (size_t node = 0; node < results.size(); ++node)
      EXPECT_EQ(results[node].gradients, expected[node].gradients) << "node " << node;
  }
  // What nodes on devices get that may not sum between them.
  const std::vector<NodeResult>& over_the_network() {
    static std::map<std::tuple<int, int, uint32_t>, std::vector<NodeResult>> known;
    std::vector<NodeResult>& results =
        known[{run_.plan.stage_count(), run_.plan.node_count(), static_cast<uint32_t>(run_.file.iterations)}];
    if (results.empty()) {
      run_.file.reduction = "transport";
      results = train();
      run_.file.reduction = "auto";
    }
    return results;
  }
  // How sums go is settled before the first: one iteration shows it.
  void expect_over_the_network(const std::string& why) {
    run_.file.iterations = 1;
    const std::vector<NodeResult> results = train();
    EXPECT_THAT(results, Each(Field("how", &NodeResult::how, AllOf(StartsWith("over the network: "), HasSubstr(why)))));
    EXPECT_THAT(results, Each(Field("between devices", &NodeResult::between_devices, false)));
    for (const Device& device : devices_)
      if (device.nccl) device.nccl->fault = NcclFault::kNone;
    expect_right_sums(results);
  }

  struct Device {
    std::shared_ptr<SimulatedNccl> nccl;
    bool is_cpu = false;
  };
  const TempFolder folder_;
  TrainingRun run_;
  std::vector<Device> devices_;  // by node
  // Called on a node's compute thread, before a backward pass.
  std::function<void(int node, uint32_t iteration)> on_backward_;
};

TEST_F(DeviceSumTest, SumsAreThoseOfTheNetwork) {
  for (const auto& [stages, replicas] : {std::pair{1, 2}, {1, 3}, {2, 2}}) {
    SCOPED_TRACE(fmt::format("{} stages, {} replicas", stages, replicas));
    make(stages, replicas);
    const std::vector<NodeResult> results = train();
    for (size_t node = 0; node < results.size(); ++node) {
      EXPECT_TRUE(results[node].between_devices);
      EXPECT_EQ(results[node].how, fmt::format("by NCCL 2.28.9 between nodes {}",
                                               fmt::join(run_.plan.stages[node % run_.plan.stages.size()], ", ")));
      EXPECT_EQ(nccl(static_cast<int>(node)).sums, int{kIterations} + 1) << "with the trial";
      EXPECT_EQ(nccl(static_cast<int>(node)).aborts, 1) << "at the end";
    }
    expect_right_sums(results);
  }
}

TEST_F(DeviceSumTest, NothingIsAskedWhereItCannotBe) {
  make(2, 1);
  EXPECT_THAT(train(), Each(Field(&NodeResult::how, "")));
  make(1, 2);
  run_.file.reduction = "transport";
  EXPECT_THAT(train(), Each(AllOf(Field(&NodeResult::how, ""), Field(&NodeResult::error, ""))));
  EXPECT_EQ(nccl(0).sums, 0);
}

TEST_F(DeviceSumTest, AReplicaThatCannotMakesAllUseTheNetwork) {
  for (const int which : {0, 1, 2}) {
    SCOPED_TRACE(which);
    make(1, 3);
    devices_[static_cast<size_t>(which)] = {nullptr, true};
    expect_over_the_network(fmt::format("node {} computes on the CPU", which));
    make(1, 3);
    devices_[static_cast<size_t>(which)] = {nullptr};
    expect_over_the_network(fmt::format("node {} has nothing that connects its device to others", which));
    make(1, 3);
    nccl(which).version = 22'703;
    expect_over_the_network("NCCL 2.27.3");
    EXPECT_EQ(nccl(0).ids, 0) << "nobody was to come";
  }
  make(1, 3);
  nccl(0).fault = NcclFault::kNoId;
  expect_over_the_network("node 0 ncclGetUniqueId: unhandled system error (no network at all)");
}

TEST_F(DeviceSumTest, OneThatFailsToConnectMakesAllUseTheNetwork) {
  for (const int which : {0, 2}) {
    SCOPED_TRACE(which);
    make(1, 3);
    nccl(which).fault = NcclFault::kConnectFails;
    expect_over_the_network(fmt::format("node {}: ncclCommInitRankConfig: unhandled cuda error", which));
    make(1, 3);
    run_.file.connect_limit_s = 0.1;
    nccl(which).fault = NcclFault::kConnectHangs;
    expect_over_the_network("NCCL 2.28.9 was not connected within 0.1 s");
    for (int node = 0; node < 3; ++node) EXPECT_EQ(nccl(node).aborts, 1);
  }
}

TEST_F(DeviceSumTest, ATrialThatFailsMakesAllUseTheNetwork) {
  for (const int which : {0, 2}) {
    SCOPED_TRACE(which);
    make(1, 3);
    nccl(which).fault = NcclFault::kSumIsWrong;
    expect_over_the_network(fmt::format("node {}: NCCL 2.28.9 summed 1 of 1024 values wrongly", which));
    make(1, 3);
    run_.file.connect_limit_s = 0.3;
    nccl(which).fault = NcclFault::kSumHangs;
    expect_over_the_network("within 0.3 s");  // a slow machine has not even connected
    for (int node = 0; node < 3; ++node) EXPECT_EQ(nccl(node).aborts, 1);
  }
}

// The others hang in NCCL, which tells them nothing.
TEST_F(DeviceSumTest, APeerLostInMidSumEndsAll) {
  make(1, 3);
  on_backward_ = [&](int node, uint32_t iteration) {
    if (node != 1 || iteration != 1) return;
    ASSERT_TRUE(testing::wait_until([&] { return nccl(0).sums >= 3 && nccl(2).sums >= 3; }));
    throw RunError("is pulled out");
  };
  const std::vector<NodeResult> results = train();
  EXPECT_EQ(results[1].error, "is pulled out");
  for (const size_t node : {0, 2}) {
    EXPECT_THAT(results[node].error, HasSubstr("node 1 was lost"));
    EXPECT_EQ(results[node].gradients.size(), 1u);
  }
  for (int node = 0; node < 3; ++node) EXPECT_EQ(nccl(node).aborts, 1);
}

TEST_F(DeviceSumTest, APeerThatOnlyNcclHasLostEndsAll) {
  make(1, 2);
  on_backward_ = [&](int node, uint32_t iteration) {
    if (iteration == 1) nccl(node).fault = node == 0 ? NcclFault::kSumFails : NcclFault::kSumHangs;
  };
  const std::vector<NodeResult> results = train();
  EXPECT_THAT(results[0].error, HasSubstr("ncclAllReduce: remote process exited or there was a network error"));
  EXPECT_THAT(results[1].error, HasSubstr("node 0 was lost"));
  for (int node = 0; node < 2; ++node) EXPECT_EQ(nccl(node).aborts, 1);
}

// Tells a node of its run what no replica should.
class BadReplica : public TransportListener {
 public:
  explicit BadReplica(Transport& transport) : transport_(transport), documents_(transport, [](int, const auto&) {}) {
    transport.set_listener(this);
  }
  ~BadReplica() override { transport_.set_listener(nullptr); }

  // Until the node is gone.
  void tell(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) documents_.send(0, text);
    EXPECT_TRUE(testing::wait_until([&] {
      if (!lost_) transport_.run_once(Clock::now() + std::chrono::seconds(1));
      return lost_;
    }));
  }

  void on_announced(Ticket ticket, const MessageHeader& header) override { documents_.on_announced(ticket, header); }
  void on_received(Ticket ticket, const MessageHeader& header, const Status& status) override {
    documents_.on_received(ticket, header, status);
  }
  void on_sent(Ticket ticket, const Status& status) override { documents_.on_sent(ticket, status); }
  void on_peer_failed(int, const Status&) override { lost_ = true; }

 private:
  Transport& transport_;
  Documents documents_;
  bool lost_ = false;
};

TEST_F(DeviceSumTest, WhatIsNoAnswerEndsTheRun) {
  const std::string offer = R"({"problem": "", "library": "NCCL 2.28.9", "id": ""})";
  const std::string bad_id = R"({"problem": "", "library": "NCCL 2.28.9", "id": "0g"})";
  const std::string good = R"({"problem": ""})";
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"{"}, "node 1, of its device"},
      {{good}, "library"},
      {{bad_id}, "expected pairs of hexadecimal digits"},
      {{offer, "[]"}, "node 1, of its device"},
      {{offer, good, good}, "a third document"},
      {{std::string(Documents::kMaxBytes, ' ')}, "node 1, of its device"},
  };
  for (const auto& [texts, problem] : cases) {
    SCOPED_TRACE(texts[0].substr(0, 100));
    make(1, 2);
    InProcessNetwork network(2, 1);
    NodeResult result;
    std::jthread node([&] { train(0, network, result); });
    BadReplica(network.transport(1)).tell(texts);
    node.join();
    EXPECT_THAT(result.error, HasSubstr(problem));
    EXPECT_THAT(result.gradients, IsEmpty());
  }
}

}  // namespace
}  // namespace skippipe::testing
