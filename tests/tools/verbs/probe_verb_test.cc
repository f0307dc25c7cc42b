// probe, as a user calls it.
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "schedule/plan/network.h"
#include "tests/temp_folder.h"
#include "tests/tools/run_program.h"
#include "tests/tools/unused_addresses.h"

namespace skippipe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ProbeVerbTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_.write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48,
      "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
      "vocab_size": 100, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
    folder_.write("network.json", R"({"format": "skippipe-network", "version": 1, "nodes": [
      {"name": "a", "region": "x", "forward_s": 0}, {"name": "b", "region": "y", "forward_s": 0},
      {"name": "c", "region": "x", "forward_s": 0}],
      "region_links": [{"from": "x", "to": "x", "latency_ms": 2, "bandwidth_mbit_per_s": 400},
                       {"from": "x", "to": "y", "latency_ms": 5, "overhead_ms": 1, "bandwidth_mbit_per_s": 200}]})");
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string probe(const std::string& options) const {
    return "probe --config " + path("config.json") + " --samples 4 --tokens 32 --repetitions 3 --stream-seconds 0.02 " +
           options;
  }
  static void expect_one_line(const ProgramResult& result, int exit_code, const std::string& part) {
    EXPECT_EQ(result.exit_code, exit_code) << result.output;
    EXPECT_THAT(result.output, HasSubstr(part));
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
  }

  TempFolder folder_;
};

TEST_F(ProbeVerbTest, FillsThisDeviceIntoANetwork) {
  const ProgramResult result =
      run_skippipe(probe("--max-slots 5 --network " + path("network.json") + " --out " + path("out.json")));
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("room for 5 slot(s)"));
  EXPECT_THAT(result.output, HasSubstr("device: CPU ("));
  const Network network = load_network(path("out.json"));
  ASSERT_EQ(network.size(), 3);
  EXPECT_GT(network.nodes[2].forward_s, 0);
  EXPECT_EQ(network.nodes[2].slots, 5);
  ASSERT_TRUE(network.measured_for);
  EXPECT_EQ(network.measured_for->hidden_size, 48);
  EXPECT_EQ(network.measured_for->samples, 4);
  EXPECT_GT(network.nodes[2].memory_bytes, 0);
  EXPECT_GT(network.nodes[2].step_s_per_byte, 0);
  EXPECT_DOUBLE_EQ(network.link(0, 1).latency_s, 0.005) << "links are kept";
}

TEST_F(ProbeVerbTest, MeasuresNodesOfThisMachineAndPlansWithThem) {
  const ProgramResult probed = run_skippipe(probe("--local 3 --message-bytes 1000000 --out " + path("out.json")));
  ASSERT_EQ(probed.exit_code, 0) << probed.output;
  EXPECT_THAT(probed.output, HasSubstr("node-2 to node-1"));
  EXPECT_THAT(probed.output, HasSubstr("device: CPU ("));
  const Network network = load_network(path("out.json"));
  ASSERT_EQ(network.size(), 3);
  for (int from = 0; from < 3; ++from) {
    EXPECT_EQ(network.nodes[static_cast<size_t>(from)].name, fmt::format("node-{}", from));
    EXPECT_GT(network.nodes[static_cast<size_t>(from)].forward_s, 0);
    for (int to = 0; to < 3; ++to) {
      if (from == to) continue;
      EXPECT_GT(network.link(from, to).latency_s, 0);
      EXPECT_GT(network.link(from, to).bandwidth_bytes_per_s, 0);
    }
  }
  ASSERT_TRUE(network.measured_for);
  EXPECT_EQ(network.measured_for->tokens, 32);
  const std::string plan = "plan --method full --microbatches 2 --evaluations 50 --network " + path("out.json") +
                           " --out " + path("plan.json");
  const ProgramResult planned =
      run_skippipe(plan + " --stages 2 --samples 4 --tokens 32 --model " + path("config.json"));
  EXPECT_EQ(planned.exit_code, 0) << planned.output;
  EXPECT_THAT(planned.output, Not(HasSubstr("warning")));

  // A model of 405 billion parameters on the same nodes.
  folder_.write("large.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16384,
    "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
  for (const char* stages : {" --stages 2", " --stages auto"}) {
    const ProgramResult refused =
        run_skippipe(plan + stages + " --samples 4 --tokens 4096 --model " + path("large.json"));
    EXPECT_EQ(refused.exit_code, 1) << refused.output;
    EXPECT_THAT(refused.output, HasSubstr("warning: " + path("out.json") +
                                          " was measured with hidden_size 48 (here 16384), intermediate_size 96 (here "
                                          "53248), "));
    EXPECT_THAT(refused.output,
                HasSubstr("probe with --config " + path("large.json") + " --samples 4 --tokens 4096 --dtype f32\n"));
    EXPECT_THAT(refused.output, HasSubstr("can hold stage 0: it needs "));
  }
}

// Every message is late by what the file says at least; how much more is the machine's business.
TEST_F(ProbeVerbTest, SeesAnEmulatedNetwork) {
  const ProgramResult probed =
      run_skippipe(probe("--local 2 --emulate " + path("network.json") + " --out " + path("out.json")));
  ASSERT_EQ(probed.exit_code, 0) << probed.output;
  const Network network = load_network(path("out.json"));
  ASSERT_EQ(network.size(), 2) << "the first two of the three";
  EXPECT_EQ(network.nodes[1].name, "b");
  EXPECT_EQ(network.nodes[1].region, "y");
  EXPECT_GE(network.link(0, 1).latency_s, 0.006);
  EXPECT_GE(network.link(1, 0).latency_s, 0.006);
}

TEST_F(ProbeVerbTest, NodesThatDisagreeSaySo) {
  const std::string addresses = fmt::format(" --addresses {}", fmt::join(unused_addresses(2), ","));
  ProgramResult other;
  std::thread thread([&] { other = run_skippipe(probe("--node 1 --message-bytes 5" + addresses)); });
  const ProgramResult one = run_skippipe(probe("--node 0 --message-bytes 6" + addresses));
  thread.join();
  expect_one_line(one, 1, "node 1 probes with --message-bytes 5, this node with 6");
  expect_one_line(other, 1, "node 0 probes with --message-bytes 6, this node with 5");
}

TEST_F(ProbeVerbTest, ANodeThatIsNotThereIsNamed) {
  const std::string addresses = fmt::format(" --addresses {}", fmt::join(unused_addresses(2), ","));
  const ProgramResult result = run_skippipe(probe("--node 1 --connect-limit 1" + addresses));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("node 0 at 127.0.0.1"));
}

TEST_F(ProbeVerbTest, RefusesWrongUse) {
  expect_one_line(run_skippipe(probe("--out " + path("out.json"))), 2, "both of --network and --out");
  expect_one_line(run_skippipe(probe("--local 2 --addresses a:1,b:2")), 2, "not both");
  expect_one_line(run_skippipe(probe("--addresses a:1,b:2")), 2, "--node: found -1, expected 0 to 1");
  expect_one_line(run_skippipe(probe("--addresses a:1,b:2 --node 2")), 2, "--node: found 2");
  expect_one_line(run_skippipe(probe("--local 1")), 2, "at least two nodes");
  expect_one_line(run_skippipe(probe("--emulate " + path("network.json"))), 2, "--emulate needs nodes");
  expect_one_line(run_skippipe(probe("--addresses a,b --node 0")), 1, "expected host:port");
  expect_one_line(run_skippipe(probe("--local 4 --emulate " + path("network.json"))), 1,
                  "network.json: 3 nodes, expected at least 4");
  expect_one_line(run_skippipe(probe("--local 2 --network " + path("network.json"))), 1, "3 nodes, expected the 2");
  expect_one_line(run_skippipe(probe("--network " + path("none.json") + " --out " + path("out.json"))), 1, "none.json");
  expect_one_line(run_skippipe("probe --config " + path("network.json")), 1, "network.json");
  EXPECT_FALSE(std::filesystem::exists(path("out.json")));
}

}  // namespace
}  // namespace skippipe
