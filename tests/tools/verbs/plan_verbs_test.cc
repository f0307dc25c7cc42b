// network, plan and simulate, as a user calls them.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "base/file.h"
#include "schedule/machine/ranking.h"
#include "schedule/machine/simulator.h"
#include "schedule/plan/network.h"
#include "schedule/plan/plan.h"
#include "schedule/plan/validator.h"
#include "schedule/search/planner.h"
#include "tests/tools/verb_test.h"

namespace skippipe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class PlanVerbsTest : public VerbTest {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string plan(const std::string& options) const {
    return "plan --network '" SKIPPIPE_SOURCE_DIR "/examples/published-20-nodes.json' --evaluations 50 --out '" +
           path("plan.json") + "' " + options;
  }
};

TEST_F(PlanVerbsTest, PlansAndSimulates) {
  for (const std::string& method : planning_methods()) {
    const ProgramResult planned =
        run_skippipe(plan("--method " + method +
                          " --nodes-per-stage 5,3,3,3,3,3 --microbatches 2 --activation-bytes 33554648 "
                          "--stage-gradient-bytes 1000000 --timeline '" +
                          path("plan.svg") + "' --map '" + path("map.svg") + "'"));
    ASSERT_EQ(planned.exit_code, 0) << planned.output;
    EXPECT_THAT(planned.output, HasSubstr("s per iteration"));
    EXPECT_THAT(read_file(path("plan.svg")), HasSubstr("</svg>"));
    const std::string map = read_file(path("map.svg"));
    EXPECT_THAT(map, HasSubstr("microbatch 9: "));
    const Network network = load_network(SKIPPIPE_SOURCE_DIR "/examples/published-20-nodes.json");
    EXPECT_TRUE(validate(load_plan(path("plan.json")), network).empty());

    // The plan names its network; another one may be given.
    const ProgramResult again = run_skippipe("simulate '" + path("plan.json") + "' --map '" + path("again.svg") + "'");
    EXPECT_EQ(again.exit_code, 0) << again.output;
    EXPECT_EQ(read_file(path("again.svg")), map);
    const ProgramResult simulated =
        run_skippipe("simulate '" + path("plan.json") +
                     "' --network '" SKIPPIPE_SOURCE_DIR "/examples/published-20-nodes.json' --jitter 2 --seed 3");
    EXPECT_EQ(simulated.exit_code, 0) << simulated.output;
    EXPECT_THAT(simulated.output, HasSubstr("0.00 %"));
  }
}

TEST_F(PlanVerbsTest, TakesSizesFromTheModel) {
  folder_.write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
  const std::string model = " --microbatches 4 --model '" + path("config.json") + "' --samples 2 --tokens 32";
  const ProgramResult planned = run_skippipe(plan("--stages 3 --skip 0.34" + model));
  ASSERT_EQ(planned.exit_code, 0) << planned.output;
  const Workload workload = load_plan(path("plan.json")).workload;
  EXPECT_EQ(workload.activation_bytes, 2 * 32 * 64 * 4);
  EXPECT_EQ(workload.stage_layers, (std::vector<int>{3, 2, 2}));
  // A layer: queries and output 64 x 64, keys and values 64 x 32, three of 64 x 128, two norms.
  const int64_t layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64;
  EXPECT_EQ(workload.stage_gradient_bytes,
            (std::vector<int64_t>{4 * (3 * layer + 2 * 300 * 64 + 64), 4 * 2 * layer, 4 * 2 * layer}));
  expect_refused(plan("--stages 8" + model), "do not fill 8 stages");
  expect_refused(plan("--stages 2 --layers 3,3" + model), "--layers sum to 6");
}

// What is not asked for gives way to every stage being trained; what is asked for does not.
TEST_F(PlanVerbsTest, EveryStageIsTrained) {
  expect_ok("network --nodes 4 --seed 5 --out @/four.json", "4 nodes");
  const std::string four = "plan --network @/four.json --evaluations 100 --out @/two.json ";
  const Network network = load_network(path("four.json"));
  for (const char* how : {"", "--unequal-exposure ", "--method skippipe ", "--method random-skip "}) {
    expect_ok(four + how + "--stages 2 --microbatches 4",
              "\n  skipping   0 of 2 stages, less than --skip's default of 1/3: every stage must be in some path\n");
    EXPECT_TRUE(validate(load_plan(path("two.json")), network).empty());
  }
  expect_ok(four + "--nodes-per-stage 1,1,1,1 --microbatches 1", "\n  skipping   0 of 4 stages, less than");
  const ProgramResult enough = run(four + "--stages 3 --microbatches 2");
  EXPECT_EQ(enough.exit_code, 0);
  EXPECT_THAT(enough.output, Not(HasSubstr("  skipping ")));
  const ProgramResult full = run(four + "--stages 2 --microbatches 2 --method full");
  EXPECT_EQ(full.exit_code, 0);
  EXPECT_THAT(full.output, Not(HasSubstr("  skipping ")));

  expect_refused(four + "--stages 2 --microbatches 4 --skip 1/3",
                 "the rule on the exposure of stages can't be met: paths of 1 of 2 stages for 8 microbatches leave out "
                 "some stage, which would never be trained: expected --skip 0");
  expect_refused(four + "--nodes-per-stage 1,1,1,1 --microbatches 1 --skip 0.25",
                 "expected --skip 0 or more --microbatches, at least 2 in all");
  expect_ok(four + "--stages 2 --microbatches 4 --skip 1/3 --compare",
            "the rule on the exposure of stages can't be met");
  EXPECT_EQ(load_plan(path("two.json")).method, "full");

  // One made by hand, or by a program that knew no better.
  Plan plan = load_plan(path("two.json"));
  plan.rules.skip_ratio = 0.5;
  for (PlannedMicrobatch& microbatch : plan.microbatches) microbatch.visits.resize(1);
  Simulator simulator(network);
  assign_priorities(plan);
  ASSERT_TRUE(complete_plan(plan, simulator));
  save_plan(plan, path("by-hand.json"));
  for (const char* verb : {"simulate", "replan"})
    expect_refused(std::string(verb) + " @/by-hand.json --network @/four.json",
                   "breaks the rule on the exposure of stages: stage 1 is in the path of no microbatch and would never "
                   "be trained");
}

// An embedding alone may be stage 0, and no other.
TEST_F(PlanVerbsTest, StageZeroMayHaveNoLayers) {
  expect_ok("network --nodes 4 --seed 5 --out @/four.json", "4 nodes");
  folder_.write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
  const std::string three =
      "plan --network @/four.json --microbatches 4 --evaluations 100 --model @/config.json --tokens 32 --out "
      "@/three.json --layers ";
  expect_ok(three + "0,1,1", "s per iteration");
  expect_ok("simulate @/three.json", "+0.00 %");
  EXPECT_EQ(load_plan(path("three.json")).workload.stage_layers, (std::vector<int>{0, 1, 1}));
  const ProgramResult later = run(three + "1,0,1");
  EXPECT_EQ(later.exit_code, 2);
  EXPECT_THAT(later.output, HasSubstr("--layers: found 0 for stage 1, expected at least 1"));
  std::string text = read_file(path("three.json"));
  text.replace(text.find("\"stage_layers\":[0,1,1]"), 22, "\"stage_layers\":[1,0,1]");
  folder_.write("hole.json", text);
  expect_refused("simulate @/hole.json --network @/four.json", "stage_layers[1]: found 0, expected");
}

// Without `slots` in the network, they follow from the memory that the model leaves.
TEST_F(PlanVerbsTest, TakesSlotsFromTheMemory) {
  folder_.write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
  const auto network_of = [&](int64_t memory_bytes) {
    folder_.write("memory.json", fmt::format(R"({{"format": "skippipe-network", "version": 1, "nodes": [
      {{"name": "a", "forward_s": 1, "memory_bytes": {0}}}, {{"name": "b", "forward_s": 1, "memory_bytes": {0}}},
      {{"name": "c", "forward_s": 1, "slots": 2}}],
      "region_links": [{{"from": "", "to": "", "latency_ms": 1}}]}})",
                                             memory_bytes));
  };
  const std::string arguments =
      "plan --network @/memory.json --stages 3 --skip 0 --microbatches 5 --evaluations 100 --samples 2 --tokens 32 "
      "--model @/config.json --out @/memory-plan.json";
  network_of(1'000'000'000);
  expect_ok(arguments, "floor");
  const Plan found = load_plan(path("memory-plan.json"));
  EXPECT_EQ(found.node_slots, (std::vector<int>{5, 5, 2})) << "one for each microbatch, and its own number";
  EXPECT_EQ(found.workload.stage_slot_bytes.size(), 3u);
  EXPECT_TRUE(validate(found, load_network(path("memory.json"))).empty());
  network_of(1'000'000);
  expect_refused(arguments, "the rule on slots and memory can't be met: 1 nodes can hold stage");
}

// A network that says what its seconds are for is no other model's.
TEST_F(PlanVerbsTest, WarnsOfANetworkThatWasMeasuredForAnotherModel) {
  folder_.write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
  const auto network_of = [&](const std::string& last_memory) {
    folder_.write("measured.json", R"({"format": "skippipe-network", "version": 1,
      "measured_for": {"model": {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300}, "samples": 2, "tokens": 32, "dtype": "f32"},
      "nodes": [{"name": "a", "forward_s": 1, "slots": 8, "memory_bytes": 20000000},
                {"name": "b", "forward_s": 1, "slots": 8, "memory_bytes": 20000000},
                {"name": "c", "forward_s": 1, "slots": 8)" +
                                       last_memory + R"(}],
      "region_links": [{"from": "", "to": "", "latency_ms": 1}]})");
  };
  const std::string plan =
      "plan --network @/measured.json --evaluations 100 --microbatches 8 --model @/config.json --out @/plan.json ";
  const std::string three = "--stages 3 --skip 0 ";
  network_of(", \"memory_bytes\": 20000000");
  const ProgramResult same = run(plan + three + "--samples 2 --tokens 32");
  EXPECT_EQ(same.exit_code, 0) << same.output;
  EXPECT_THAT(same.output, Not(HasSubstr("warning")));
  EXPECT_THAT(run("replan @/plan.json").output, Not(HasSubstr("warning")));

  const std::string other =
      "measured.json was measured with samples 2 (here 8), tokens 32 (here 64): its seconds are "
      "not this run's; to measure again, probe with --config ";
  for (const std::string& shape : {three, std::string("--stages auto ")}) {
    const ProgramResult found = run(plan + shape + "--samples 8 --tokens 64");
    EXPECT_EQ(found.exit_code, 0) << found.output;
    EXPECT_THAT(found.output, HasSubstr(other));
    EXPECT_THAT(found.output, HasSubstr("config.json --samples 8 --tokens 64 --dtype f32\n"));
    expect_ok("replan @/plan.json",
              "was measured with samples 2, tokens 32 and hidden_size 64, but the plan's messages are of 8 samples and "
              "131072 bytes: its seconds are not this run's\n");
  }
  expect_ok(plan + three + "--samples 2 --tokens 32 --dtype bf16", "was measured with dtype f32 (here bf16): ");
  network_of("");
  expect_ok(plan + three + "--samples 2 --tokens 32", "floor");
  expect_refused(plan + three + "--samples 8 --tokens 64",
                 "--dtype f32; nor can be told how many slots 'c' has, without its memory_bytes");
}

// What is written in the network is a wish where memory is known.
TEST_F(PlanVerbsTest, MemoryBoundsTheSlotsThatAreWritten) {
  folder_.write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
  const auto network_of = [&](int64_t memory_bytes) {
    folder_.write("written.json", fmt::format(R"({{"format": "skippipe-network", "version": 1, "nodes": [
      {{"name": "a", "forward_s": 1, "slots": 5, "memory_bytes": {0}}},
      {{"name": "b", "forward_s": 1, "slots": 5, "memory_bytes": {0}}}],
      "region_links": [{{"from": "", "to": "", "latency_ms": 1}}]}})",
                                              memory_bytes));
  };
  const std::string plan =
      "plan --network @/written.json --stages 2 --skip 0 --microbatches 8 --evaluations 100 --samples 4 --tokens 64 "
      "--model @/config.json --out @/written-plan.json ";
  const auto slots = [&] { return load_plan(path("written-plan.json")).node_slots; };
  network_of(1'000'000'000);
  const ProgramResult roomy = run(plan);
  EXPECT_THAT(roomy.output, Not(HasSubstr("\n  slots  ")));
  EXPECT_EQ(slots(), (std::vector<int>{5, 5}));

  network_of(10'000'000);
  expect_ok(plan, "written.json says on 2 of 2 nodes, whose memory holds no more: --recompute block makes room\n");
  EXPECT_THAT(slots(), ::testing::Each(::testing::AllOf(::testing::Ge(1), ::testing::Lt(5))));
  EXPECT_TRUE(validate(load_plan(path("written-plan.json")), load_network(path("written.json"))).empty());
  const std::vector<int> without = slots();
  expect_ok(plan + "--recompute block",
            "\n  recompute  block: where a run does so, each backward takes 80 % of a forward longer");
  EXPECT_GT(slots()[0], without[0]);
  EXPECT_TRUE(validate(load_plan(path("written-plan.json")), load_network(path("written.json"))).empty());

  // Another file, another memory: the plan is no longer one for it.
  expect_ok("simulate @/written-plan.json", "+0.00 %");
  network_of(8'000'000);
  expect_refused("simulate @/written-plan.json", "5 slots in the plan: stage 0 then takes ");
  network_of(5'000'000);
  expect_refused(plan, "no node can hold stage 0: it needs ");
  EXPECT_EQ(run(plan + "--recompute some").exit_code, 2);
}

TEST_F(PlanVerbsTest, DrawsNetworks) {
  expect_ok(
      "network --nodes 9 --clusters 3 --classes 1,4 --spread 2 --seed 5 --uplink-mbit-per-s 40 --out @/drawn.json",
      "9 nodes in 3 regions");
  EXPECT_DOUBLE_EQ(load_network(path("drawn.json")).nodes[8].uplink_bytes_per_s, 5e6);
  EXPECT_EQ(run("network --uplink-mbit-per-s 0 --out @/none.json").exit_code, 2);
  expect_ok("plan --network @/drawn.json --stages 3 --microbatches 6 --stage-gradient-bytes 1000 --evaluations 50",
            "s per iteration");
  expect_refused("network --nodes 2 --clusters 3 --out @/none.json", "clusters: found 3");
  expect_refused("network --out @/none/network.json", "none");
  EXPECT_EQ(run("network --nodes 0 --out @/none.json").exit_code, 2);
}

// One node goes, and comes back in another network with a new one.
TEST_F(PlanVerbsTest, Replans) {
  expect_ok("network --nodes 9 --clusters 3 --seed 5 --out @/nine.json", "9 nodes in 3 regions");
  expect_ok("network --nodes 10 --clusters 3 --seed 5 --out @/ten.json", "10 nodes in 3 regions");
  expect_ok("plan --network @/nine.json --stages 3 --microbatches 3 --evaluations 200 --out @/old.json", "floor");
  const std::string replan = "replan @/old.json --evaluations 200 ";
  const ProgramResult smaller = run(replan + "--gone region-1-node-0 --map @/map.svg --out @/smaller.json");
  ASSERT_EQ(smaller.exit_code, 0) << smaller.output;
  for (const char* part :
       {"\n  gone       region-1-node-0 (stage ", "\n  visits     ", "s per iteration before", "floor"})
    EXPECT_THAT(smaller.output, HasSubstr(part));
  EXPECT_THAT(smaller.output, ::testing::Not(HasSubstr("unused     region-1-node-0"))) << "it is gone, not left out";
  EXPECT_THAT(read_file(path("map.svg")), HasSubstr("</svg>"));
  EXPECT_TRUE(validate(load_plan(path("smaller.json")), load_network(path("nine.json"))).empty());
  expect_ok("simulate @/smaller.json", "+0.00 %");

  expect_ok(
      "replan @/smaller.json --network @/ten.json --place region-0-node-3=2,region-1-node-0=1 --out @/ten-plan.json",
      "\n  joined     region-0-node-3 (stage 2), region-1-node-0 (stage 1)\n");
  expect_ok("simulate @/ten-plan.json", "+0.00 %");
  expect_ok("replan @/ten-plan.json --network @/nine.json", "\n  gone       region-0-node-3 (stage 2)\n");

  const std::string all_gone =
      "--gone region-0-node-0,region-0-node-1,region-0-node-2,region-1-node-0,region-1-node-1,"
      "region-1-node-2,region-2-node-0,region-2-node-1,region-2-node-2";
  expect_refused(replan + all_gone,
                 "the rule on the nodes of a stage can't be met: stage 0 has no node left without 'region-");
  expect_refused(replan + "--gone x", "gone: 'x' is a node neither of the plan nor of the network");
  expect_refused(replan + "--gone region-1-node-0 --gone region-1-node-0",
                 "gone: two nodes are named 'region-1-node-0'");
  expect_refused(replan + "--place region-1-node-0=3", "found stage 3, expected 0 to 2");
  expect_refused(replan + "--network @/none.json", "none.json");
  for (const char* arguments : {"--place x", "--place =1", "--place x=", "--place x=1y", "--place x=1,x=2", "--gone"})
    EXPECT_EQ(run(replan + arguments).exit_code, 2) << arguments;
}

// Whoever keeps all nodes hears which of them do nothing.
TEST_F(PlanVerbsTest, NamesNodesThatNoPathVisits) {
  folder_.write("slow.json", R"({"format": "skippipe-network", "version": 1, "nodes": [
    {"name": "a", "forward_s": 0.1}, {"name": "slow", "forward_s": 100}, {"name": "b", "forward_s": 0.1}],
    "region_links": [{"from": "", "to": "", "latency_ms": 1}]})");
  const std::string plan =
      "plan --network @/slow.json --skip 0 --microbatches 2 --evaluations 500 --out @/slow-plan.json ";
  expect_ok(plan + "--nodes-per-stage 2,1", "\n  idle       slow: in no path, only in sums of gradients; ");
  const ProgramResult free = run(plan + "--stages 2");
  EXPECT_THAT(free.output, HasSubstr("\n  unused     slow: "));
  EXPECT_THAT(free.output, Not(HasSubstr("idle")));
}

// A node for each stage, and one gone: the others take the model in fewer stages. Where nodes could take its place, the
// refusal says how.
TEST_F(PlanVerbsTest, ReplansInFewerStages) {
  expect_ok("network --nodes 4 --seed 5 --out @/four.json", "4 nodes");
  const std::string plan_four = "plan --network @/four.json --microbatches 4 --stage-gradient-bytes 8000 ";
  expect_ok(plan_four + "--stages 4 --layers 2,2,2,2 --evaluations 100 --out @/old.json", "floor");
  const std::string gone = load_plan(path("old.json")).node_names[1];
  const std::string replan = "replan @/old.json --evaluations 100 --gone " + gone;
  const ProgramResult smaller = run(replan + " --out @/smaller.json");
  ASSERT_EQ(smaller.exit_code, 0) << smaller.output;
  EXPECT_THAT(smaller.output, ::testing::StartsWith("3 stages instead of 4: stage "));
  for (const std::string& part : {" has no node left without '" + gone + "'", "\n  gone       " + gone + " (stage ",
                                  std::string("`skippipe launch --resume` cuts"), std::string("\n  planned    ")})
    EXPECT_THAT(smaller.output, HasSubstr(part));
  EXPECT_THAT(smaller.output, Not(HasSubstr("on another node"))) << "all stages are others";
  const Plan found = load_plan(path("smaller.json"));
  EXPECT_EQ(found.workload.stage_layers, (std::vector<int>{3, 3, 2}));
  EXPECT_EQ(found.workload.stage_gradient_bytes, (std::vector<int64_t>{12000, 12000, 8000}));
  EXPECT_TRUE(validate(found, load_network(path("four.json"))).empty());
  expect_ok("simulate @/smaller.json", "+0.00 %");
  expect_ok(replan + " --stages 2", "through 2 of 2 stages");
  expect_refused(replan + " --stages 9", "found 9 stages, expected 1 to 8");
  expect_refused(replan + " --stages 4",
                 "no plan of 4 stages for the nodes that are left: the rule on the nodes of a stage can't be met: 4 "
                 "stages need at least as many nodes, found 3");
  for (const char* wrong : {" --stages 3 --may-move", " --stages 3 --place x=1", " --stages 0"})
    EXPECT_EQ(run(replan + wrong).exit_code, 2) << wrong;

  expect_ok(plan_four + "--nodes-per-stage 3,1 --evaluations 100 --out @/two.json", "floor");
  const Plan two = load_plan(path("two.json"));
  expect_refused("replan @/two.json --gone " + two.node_names[static_cast<size_t>(two.stages[1][0])],
                 "; --may-move lets another stage's node take its place; --stages 1 makes a plan of fewer stages");
}

// Published figures leave out gradients and norms.
TEST_F(PlanVerbsTest, PlansThePipelineAlone) {
  const ProgramResult planned = run("plan --network '" SKIPPIPE_SOURCE_DIR
                                    "/examples/published-20-nodes.json' --nodes-per-stage 5,3,3,3,3,3 "
                                    "--skip 1/3 --microbatches 6 --evaluations 5000 --out @/plan.json");
  ASSERT_EQ(planned.exit_code, 0) << planned.output;
  EXPECT_THAT(planned.output, HasSubstr("30 microbatches of 1 sample through 4 of 6 stages on 20 nodes"));
  const Plan found = load_plan(path("plan.json"));
  EXPECT_FALSE(found.workload.exchange_norm);
  EXPECT_LT(found.predicted.iteration_s, 48.92) << "what random skipping needs";
  for (const char* arguments : {"--skip 1/0", "--skip 4/3", "--skip x", "--nodes-per-stage 10,10"})
    EXPECT_EQ(run(plan("--stages 6 --microbatches 6 ") + arguments).exit_code, 2) << arguments;
  expect_refused(plan("--nodes-per-stage 5,3 --microbatches 6"),
                 "--nodes-per-stage: found 8 nodes in all, expected the 20");
  expect_refused(plan("--stages 2 --batch 65537"), "--batch: 65537 samples in microbatches of 1 (--samples)");
}

TEST_F(PlanVerbsTest, ComparesMethods) {
  const std::string network = "plan --network '" SKIPPIPE_SOURCE_DIR "/examples/published-20-nodes.json' ";
  const std::string six_stages = network + "--nodes-per-stage 5,3,3,3,3,3 --microbatches 2 --evaluations 200 ";
  const ProgramResult compared =
      run(six_stages + "--compare --csv @/rows.csv --chart @/rows.svg --out @/best.json --map @/map.svg");
  ASSERT_EQ(compared.exit_code, 0) << compared.output;
  const std::string csv = read_file(path("rows.csv"));
  double least_s = std::numeric_limits<double>::infinity();
  for (const std::string& method : planning_methods()) {
    EXPECT_THAT(compared.output, HasSubstr("\n  " + method + " "));
    const size_t at = csv.find("\r\n" + method + ",");
    ASSERT_NE(at, std::string::npos) << method << "\n" << csv;
    least_s = std::min(least_s, std::stod(csv.substr(at + method.size() + 3)));
  }
  EXPECT_DOUBLE_EQ(load_plan(path("best.json")).predicted.iteration_s, least_s);
  EXPECT_THAT(read_file(path("rows.svg")), HasSubstr("</svg>"));
  EXPECT_THAT(read_file(path("map.svg")), HasSubstr("</svg>"));
  expect_ok("simulate @/best.json", "+0.00 %");

  // Only some methods have a plan, or none.
  expect_ok(network + "--stages 10 --skip 0.8 --microbatches 7 --evaluations 20 --compare",
            "the rule on the exposure of stages can't be met");
  const ProgramResult none = run(network + "--stages 21 --microbatches 2 --evaluations 20 --compare");
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.output, HasSubstr("skippipe: no method has a plan: the rule on the nodes of a stage can't be met"));
  for (const char* arguments : {"--csv @/rows.csv", "--chart @/rows.svg", "--compare --method full"})
    EXPECT_EQ(run(six_stages + arguments).exit_code, 2) << arguments;
}

// Two large nodes and two that hold few layers: shapes that do not fit are told with what they lack.
TEST_F(PlanVerbsTest, ChoosesTheShape) {
  folder_.write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 12, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
  folder_.write("uneven.json", R"({"format": "skippipe-network", "version": 1, "nodes": [
    {"name": "a", "forward_s": 0.1, "memory_bytes": 12000000}, {"name": "b", "forward_s": 0.1, "memory_bytes": 12000000},
    {"name": "c", "forward_s": 0.3, "memory_bytes": 6000000}, {"name": "d", "forward_s": 0.3, "memory_bytes": 6000000}],
    "region_links": [{"from": "", "to": "", "latency_ms": 1}]})");
  const std::string network = "plan --network @/uneven.json --stages auto ";
  const std::string model = "--model @/config.json --samples 2 --tokens 32 --evaluations 2000 ";
  const ProgramResult chosen = run(network + model + "--batch 24 --skip 0 --out @/chosen.json --map @/chosen.svg");
  ASSERT_EQ(chosen.exit_code, 0) << chosen.output;
  EXPECT_THAT(chosen.output, HasSubstr("samples/s\n*"));
  EXPECT_THAT(chosen.output, HasSubstr("the rule on slots and memory can't be met: "));
  EXPECT_THAT(chosen.output, HasSubstr("12 microbatches of 2 samples"));
  const Plan found = load_plan(path("chosen.json"));
  EXPECT_TRUE(validate(found, load_network(path("uneven.json"))).empty());
  const auto layers_of = [&](int node) {
    return found.workload.stage_layers[static_cast<size_t>(found.stage_of_nodes()[static_cast<size_t>(node)])];
  };
  EXPECT_LT(std::max(layers_of(2), layers_of(3)), std::max(layers_of(0), layers_of(1)));
  expect_ok("simulate @/chosen.json", "+0.00 %");

  expect_ok(network + model + "--microbatches 3 --method full", "full: ");
  EXPECT_EQ(run(network + model).exit_code, 2) << "neither --microbatches nor --batch";
  for (const char* wrong : {"--batch 3", "--microbatches 2 --layers 6,6", "--microbatches 2 --nodes-per-stage 2,2",
                            "--microbatches 2 --compare", "--microbatches 2 --batch 4"})
    EXPECT_EQ(run(network + model + wrong).exit_code, 2) << wrong;
  const ProgramResult without_model = run(network + "--microbatches 2");
  EXPECT_EQ(without_model.exit_code, 2);
  EXPECT_THAT(without_model.output, HasSubstr("--stages auto needs --model and --tokens"));
  EXPECT_EQ(run("plan --network @/uneven.json --stages some --microbatches 2").exit_code, 2);
}

TEST_F(PlanVerbsTest, Explains) {
  const std::string options = "--nodes-per-stage 5,3,3,3,3,3 --microbatches 2 --stage-gradient-bytes 1000 --explain";
  const ProgramResult planned = run_skippipe(plan(options));
  ASSERT_EQ(planned.exit_code, 0) << planned.output;
  const size_t at = planned.output.find("  what bounds the iteration: of ");
  ASSERT_NE(at, std::string::npos) << planned.output;
  EXPECT_THAT(planned.output, HasSubstr("what one change would save"));
  const ProgramResult simulated = run("simulate @/plan.json --explain");
  EXPECT_EQ(simulated.exit_code, 0);
  EXPECT_THAT(simulated.output, HasSubstr(planned.output.substr(at)));
}

TEST_F(PlanVerbsTest, LimitsTheSearch) {
  const std::string request = "plan --network '" SKIPPIPE_SOURCE_DIR
                              "/examples/published-20-nodes.json' --stages 3 --microbatches 2 --threads 2 ";
  for (const char* budget : {"--evaluations 100", "--seconds 0.05", "--seconds 0.05 --evaluations 100"})
    expect_ok(request + budget, "s per iteration");
  for (const char* wrong : {"--evaluations 0", "--seconds 0", "--seconds -1", "--seconds soon", "--threads -1"})
    EXPECT_EQ(run(request + wrong).exit_code, 2) << wrong;
}

TEST_F(PlanVerbsTest, RefusesWhatCannotBe) {
  const std::string sizes = " --microbatches 7 --stage-gradient-bytes 1";
  expect_refused(plan("--stages 21" + sizes),
                 "the rule on the nodes of a stage can't be met: 21 stages need at least as many nodes, found 20");
  expect_refused(plan("--stages 10 --skip 0.8" + sizes), "the rule on the exposure of stages can't be met");
  EXPECT_EQ(run_skippipe(plan("--stages 0" + sizes)).exit_code, 2);
  expect_refused("plan --network '" SKIPPIPE_SOURCE_DIR
                 "/examples/published-20-nodes.json' --stages 2 --map @/none/map.svg --evaluations 1000000000" +
                     sizes,
                 "none/map.svg: ");
  EXPECT_EQ(run_skippipe(plan("--stages 3 --method best" + sizes)).exit_code, 2);

  ASSERT_EQ(run_skippipe(plan("--stages 3" + sizes)).exit_code, 0);
  const std::string network = " --network '" SKIPPIPE_SOURCE_DIR "/examples/published-20-nodes.json'";
  std::string text = read_file(path("plan.json"));
  text.replace(text.find("\"slots\":3"), 9, "\"slots\":2");
  folder_.write("slots.json", text);
  expect_refused("simulate '" + path("slots.json") + "'" + network,
                 "breaks the rule on slots and memory: node 0 has 2 slots in the plan and 3");
  folder_.write("cut.json", text.substr(0, text.size() / 2));
  expect_refused("simulate '" + path("cut.json") + "'" + network, "cut.json: not valid JSON");
  expect_refused("simulate '" + path("absent.json") + "'" + network, "absent.json");
}

}  // namespace
}  // namespace skippipe
