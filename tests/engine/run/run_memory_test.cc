#include "engine/run/run_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <regex>

#include "base/error.h"
#include "engine/probe/slots.h"
#include "kernels/cpu_backend.h"
#include "kernels/host_memory.h"
#include "schedule/plan/rules.h"
#include "schedule/plan/stage_memory.h"
#include "schedule/plan/validator.h"
#include "tests/engine/node/distributed_scenario.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe::testing {
namespace {

constexpr int64_t kMegabyte = 1'000'000;
const std::unique_ptr<Backend> kCpu = make_cpu_backend();

// Activations of many megabytes, which no test allocates.
TrainingRun large_run(uint64_t seed, const TempFolder& folder) {
  TrainingRun run = make_scenario(seed, folder.path());
  run.file.recompute = "auto";
  run.file.samples = 96;
  run.file.tokens = 64;
  return run;
}

int64_t bytes_with(TrainingRun run, Recompute recompute, int node) {
  run.recompute.assign(run.network.nodes.size(), recompute);
  return plan_node_memory(run, node, *kCpu).total_bytes();
}

std::vector<int> all_nodes(const TrainingRun& run) {
  std::vector<int> nodes(run.network.nodes.size());
  std::iota(nodes.begin(), nodes.end(), 0);
  return nodes;
}

TEST(ChooseRecompute, TakesTheFirstThatFitsElseTheLeast) {
  const TempFolder folder;
  std::map<Recompute, int> chosen;
  int misfits = 0;
  for (const uint64_t seed : {1, 2, 3, 5}) {
    TrainingRun run = large_run(seed, folder);
    for (run.file.memory_limit_mb = 1; run.file.memory_limit_mb < 100; ++run.file.memory_limit_mb) {
      choose_recompute(run, *kCpu, {});
      for (const int node : all_nodes(run)) {
        std::vector<int64_t> bytes;
        for (const Recompute recompute : kRecomputes) bytes.push_back(bytes_with(run, recompute, node));
        auto expected =
            std::ranges::find_if(bytes, [&](int64_t needed) { return needed <= run.file.memory_limit_mb * kMegabyte; });
        if (expected == bytes.end()) {
          expected = std::ranges::min_element(bytes);
          ++misfits;
          EXPECT_THROW(check_memory(run, *kCpu, node), MemoryError);
        } else {
          ++chosen[run.recompute_of(node)];
          EXPECT_NO_THROW(check_memory(run, *kCpu, node));
        }
        ASSERT_EQ(run.recompute_of(node), kRecomputes[static_cast<size_t>(expected - bytes.begin())])
            << "seed " << seed << ", node " << node << ", limit " << run.file.memory_limit_mb;
        ASSERT_EQ(plan_node_memory(run, node, *kCpu).total_bytes(), *expected);
      }
    }
  }
  for (const Recompute recompute : kRecomputes) EXPECT_GT(chosen[recompute], 20) << recompute_name(recompute);
  EXPECT_GT(misfits, 20);
}

TEST(ChooseRecompute, LeavesWhatTheRunFileSays) {
  const TempFolder folder;
  TrainingRun run = large_run(1, folder);
  run.file.memory_limit_mb = 1;
  for (const Recompute recompute : kRecomputes) {
    run.file.recompute = recompute_name(recompute);
    choose_recompute(run, *kCpu, all_nodes(run));
    for (const int node : all_nodes(run)) EXPECT_EQ(run.recompute_of(node), recompute);
  }
}

// Each of the nodes would fit alone.
TEST(ChooseRecompute, NodesOfOneMachineShareItsMemory) {
  const TempFolder folder;
  TrainingRun run = large_run(5, folder);
  const std::vector<int> nodes = all_nodes(run);
  const auto total = [&] {
    return std::accumulate(nodes.begin(), nodes.end(), int64_t{0}, [&](int64_t sum, int node) {
      return sum + plan_node_memory(run, node, *kCpu).total_bytes();
    });
  };
  const double available = static_cast<double>(read_host_memory().shared.bytes);
  run.file.samples = static_cast<int64_t>(2 * available / static_cast<double>(total()) * 96);
  ASSERT_GT(static_cast<double>(total()), 1.5 * available);
  choose_recompute(run, *kCpu, {});
  for (const int node : nodes) ASSERT_EQ(run.recompute_of(node), Recompute::kNone) << node;
  choose_recompute(run, *kCpu, nodes);
  EXPECT_LT(static_cast<double>(total()), available * 1.2);  // other programs come and go
  EXPECT_TRUE(std::ranges::any_of(nodes, [&](int node) { return run.recompute_of(node) == Recompute::kBlock; }));

  run.file.recompute = "none";
  run.recompute.clear();
  SKP_EXPECT_ERROR(check_memory(run, *kCpu, nodes), MemoryError, "nodes need ");
  SKP_EXPECT_ERROR(check_memory(run, *kCpu, nodes), MemoryError, "); compute.recompute = \"auto\" takes ");
  run.file.samples *= 100;
  SKP_EXPECT_ERROR(check_memory(run, *kCpu, nodes.front()), MemoryError, "; compute.recompute = \"block\" takes ");
}

// Sets what the message says; false: it says that nothing helps.
bool follow_advice(TrainingRun& run, int node, const std::string& message) {
  std::smatch found;
  if (std::regex_search(message, found, std::regex("compute.recompute = \"([a-z]+)\" takes")))
    run.file.recompute = found[1];
  if (std::regex_search(message, found, std::regex("slots = ([0-9]+) in the network file")))
    run.plan.node_slots[static_cast<size_t>(node)] = std::stoi(found[1]);
  if (std::regex_search(message, found, std::regex("data.samples = ([0-9]+) and")))
    run.file.samples = std::stoll(found[1]);
  run.recompute.clear();
  choose_recompute(run, *kCpu, {});
  return message.find("one slot of one sample") == std::string::npos;
}

std::string refusal(const TrainingRun& run, int node) {
  try {
    check_memory(run, *kCpu, node);
  } catch (const MemoryError& error) {
    return error.what();
  }
  return "";
}

// Whatever is too large: what the message advises fits, and no more than that would.
// What a plan counts for a stage and its slots is what a run then takes, but for messages and sums, for which it leaves
// a share.
TEST(CheckMemory, NodesFitWhereTheirPlanFoundRoom) {
  const TempFolder folder;
  int writers = 0;
  for (const uint64_t seed : {1, 2, 3, 5, 8, 13}) {
    TrainingRun run = make_scenario(seed, folder.path());
    run.file.recompute = "none";
    Workload& workload = run.plan.workload;
    describe_memory(workload, run.model, run.batch(), run.dtype());
    const std::vector<int> stage_of = run.plan.stage_of_nodes();
    for (const int node : all_nodes(run)) {
      const auto stage = static_cast<size_t>(stage_of[static_cast<size_t>(node)]);
      NetworkNode& planned = run.network.nodes[static_cast<size_t>(node)];
      const int64_t counted = workload.stage_state_bytes[stage] +
                              run.plan.node_slots[static_cast<size_t>(node)] * workload.stage_slot_bytes[stage];
      planned.memory_bytes = static_cast<int64_t>(std::ceil(static_cast<double>(counted) / kStageMemoryShare));
      const MemoryPlan memory = plan_node_memory(run, node, *kCpu);
      EXPECT_LE(memory.total_bytes(), planned.memory_bytes) << "seed " << seed << ", node " << node;
      if (memory.bytes(Region::kCheckpoint) == 0) continue;
      ++writers;
      EXPECT_GE(memory.total_bytes(), counted);
    }
    for (const Violation& violation : validate(run.plan, run.network))
      EXPECT_NE(violation.rule, kSlotsRule) << "seed " << seed << ": " << violation.what;
  }
  EXPECT_GT(writers, 0);
}

TEST(CheckMemory, ItsAdviceMakesTheNodeFit) {
  const TempFolder folder;
  std::map<std::string, int> said;
  for (const uint64_t seed : {1, 2, 3, 5}) {
    for (const char* recompute : {"auto", "none", "attention", "block"}) {
      TrainingRun run = large_run(seed, folder);
      run.file.recompute = recompute;
      for (int64_t limit_mb = 1; limit_mb < 40; ++limit_mb) {
        run.file.memory_limit_mb = limit_mb;
        run.file.samples = limit_mb == 1 ? 960 : 96;
        run.file.tokens = limit_mb == 1 ? 64 * 64 : 64;
        run.model.max_positions = run.file.tokens;
        choose_recompute(run, *kCpu, {});
        const int node = static_cast<int>(seed) % run.network.size();
        const std::string message = refusal(run, node);
        if (message.empty()) continue;
        SCOPED_TRACE(fmt::format("seed {}, limit {}: {}", seed, limit_mb, message));
        TrainingRun advised = run;
        const bool helps = follow_advice(advised, node, message);
        ASSERT_EQ(refusal(advised, node).empty(), helps);
        const auto slots = static_cast<size_t>(node);
        const bool fewer_slots = advised.plan.node_slots[slots] != run.plan.node_slots[slots];
        const bool fewer_samples = advised.file.samples != run.file.samples;
        ++said[!helps ? "nothing" : fewer_samples ? "samples" : fewer_slots ? "slots" : "recompute"];
        if (fewer_samples) {
          ++advised.file.samples;
          EXPECT_NE(refusal(advised, node), "");
        } else if (fewer_slots) {
          ++advised.plan.node_slots[slots];
          EXPECT_NE(refusal(advised, node), "");
        }
      }
    }
  }
  for (const char* kind : {"recompute", "slots", "samples", "nothing"}) EXPECT_GT(said[kind], 3) << kind;
}

}  // namespace
}  // namespace skippipe::testing
