// A distributed run equals the one-process oracle, bit for bit, for random plans with skips and swaps.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <exception>
#include <set>
#include <thread>

#include "base/error.h"
#include "comm/transport/in_process_transport.h"
#include "kernels/cpu_backend.h"
#include "tests/engine/node/distributed_scenario.h"
#include "tests/temp_folder.h"
#include "tests/test_backend.h"
#include "tools/processes/local_addresses.h"
#include "tools/processes/processes.h"

namespace skippipe::testing {
namespace {

void expect_equal(const std::vector<NodeRecord>& actual, const std::vector<NodeRecord>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t n = 0; n < actual.size(); ++n) {
    ASSERT_EQ(actual[n].iterations.size(), expected[n].iterations.size()) << "node " << n;
    for (size_t i = 0; i < actual[n].iterations.size(); ++i) {
      const NodeRecord::Iteration& a = actual[n].iterations[i];
      const NodeRecord::Iteration& e = expected[n].iterations[i];
      EXPECT_EQ(a.loss, e.loss) << "node " << n << ", iteration " << i;
      EXPECT_EQ(a.gradient_norm, e.gradient_norm) << "node " << n << ", iteration " << i;
      EXPECT_EQ(a.validation_loss, e.validation_loss) << "node " << n << ", iteration " << i;
      EXPECT_EQ(a.validation_path_loss, e.validation_path_loss) << "node " << n << ", iteration " << i;
      EXPECT_GT(e.gradient_norm, 0);
      ASSERT_EQ(a.gradients, e.gradients) << "node " << n << ", iteration " << i;
    }
  }
}

// Every visit ran forward and backward once, every microbatch's loss once, each on its node.
void expect_complete(const TrainingRun& run, const std::vector<NodeRecord>& records) {
  using Tasks = std::multiset<std::pair<TaskKind, int>>;
  std::vector<Tasks> expected(records.size());
  for (size_t m = 0; m < run.plan.microbatches.size(); ++m) {
    const int microbatch = static_cast<int>(m);
    for (const PlannedVisit& visit : run.plan.microbatches[m].visits) {
      expected[static_cast<size_t>(visit.node)].insert({TaskKind::kForward, microbatch});
      expected[static_cast<size_t>(visit.node)].insert({TaskKind::kBackward, microbatch});
    }
    expected[static_cast<size_t>(run.plan.microbatches[m].data_node())].insert({TaskKind::kLoss, microbatch});
  }
  for (size_t n = 0; n < records.size(); ++n) {
    ASSERT_EQ(records[n].iterations.size(), static_cast<size_t>(run.file.iterations));
    for (const NodeRecord::Iteration& iteration : records[n].iterations) {
      Tasks tasks;
      for (const NodeRecord::Task& task : iteration.tasks) tasks.insert({task.kind, task.microbatch});
      EXPECT_EQ(tasks, expected[n]) << "node " << n;
    }
  }
}

// What the scenarios of a test had in them, so that none is easier than it looks.
struct Variety {
  int skipped = 0, swapped = 0, replicated = 0, clipped = 0, unclipped = 0, rounded = 0, recomputed = 0;
  int validated_clipped = 0, validated_unclipped = 0, validated_by_several = 0;

  void add(const TrainingRun& run) {
    skipped += has_skips(run.plan);
    swapped += has_swaps(run.plan);
    replicated += run.plan.node_count() > run.plan.stage_count();
    (run.file.clip_norm > 0 ? clipped : unclipped) += 1;
    rounded += run.dtype() == Dtype::kBf16;
    recomputed += run.recompute_of(0) != Recompute::kNone;
    std::set<int> readers;
    for (const PlannedMicrobatch& microbatch : run.validation().microbatches) readers.insert(microbatch.data_node());
    if (readers.empty()) return;
    (run.file.clip_norm > 0 ? validated_clipped : validated_unclipped) += 1;
    validated_by_several += readers.size() > 1;
  }
};

std::vector<NodeRecord> run_in_threads(const TrainingRun& run, const std::string& gpu = "simt") {
  const int nodes = run.network.size();
  InProcessNetwork network(nodes, run.file.run_id);
  std::vector<NodeRecord> records(static_cast<size_t>(nodes));
  std::vector<std::exception_ptr> errors(static_cast<size_t>(nodes));
  {
    std::vector<std::jthread> threads;
    for (int n = 0; n < nodes; ++n) {
      threads.emplace_back([&, n] {
        try {
          records[static_cast<size_t>(n)] = run_node(run, n, network.transport(n), nullptr, gpu);
        } catch (const std::exception& error) {
          errors[static_cast<size_t>(n)] = std::current_exception();
          network.fail(n, error.what());
        }
      });
    }
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return records;
}

TEST(Distributed, EqualsTheOracleInProcess) {
  const TempFolder folder;
  const char* only = std::getenv("SKIPPIPE_SEED");
  const uint64_t first = only != nullptr ? std::stoull(only) : 1, last = only != nullptr ? first : 32;
  Variety variety;
  for (uint64_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE(fmt::format("SKIPPIPE_SEED={} test_engine_distributed", seed));
    const TrainingRun run = make_scenario(seed, folder.path());
    variety.add(run);
    const std::vector<NodeRecord> records = run_in_threads(run);
    expect_complete(run, records);
    expect_equal(records, run_oracle(run, records));
    if (HasFatalFailure()) return;
  }
  if (only != nullptr) return;
  EXPECT_GE(variety.skipped, 24);
  EXPECT_GE(variety.swapped, 24);
  EXPECT_GE(variety.replicated, 5);
  EXPECT_GE(variety.clipped, 5);
  EXPECT_GE(variety.unclipped, 5);
  EXPECT_GE(variety.recomputed, 20);
  EXPECT_GE(variety.validated_clipped, 5);
  EXPECT_GE(variety.validated_unclipped, 5);
  EXPECT_GE(variety.validated_by_several, 5);
  EXPECT_EQ(variety.rounded, make_cpu_backend()->computes_in(Dtype::kBf16) ? 16 : 0);
}

// What a run learns does not depend on what its nodes are.
void expect_losses_near(const std::vector<NodeRecord>& records, const std::vector<NodeRecord>& expected,
                        double tolerance) {
  for (size_t i = 0; i < expected.front().iterations.size(); ++i) {
    const double loss = records.front().iterations[i].loss, wanted = expected.front().iterations[i].loss;
    EXPECT_NEAR(loss, wanted, tolerance * wanted) << "iteration " << i;
    const double norm = records.front().iterations[i].gradient_norm;
    const double wanted_norm = expected.front().iterations[i].gradient_norm;
    EXPECT_NEAR(norm, wanted_norm, 10 * tolerance * wanted_norm) << "iteration " << i;
  }
}

// GPUs alone, and beside CPUs; messages in another dtype than some of the nodes compute in.
class DistributedOnDevices : public ::testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Devices, DistributedOnDevices, ::testing::Values("simt", "cuda"),
                         [](const auto& test) { return test.param; });

TEST_P(DistributedOnDevices, EqualsTheOracle) {
  std::string why_none;
  SKP_SKIP_WITHOUT(make_test_backend(GetParam(), why_none), why_none);
  const TempFolder folder;
  int alone = 0, beside = 0, rounded = 0, cast = 0;
  for (uint64_t seed = kFirstDeviceSeed; seed < kFirstDeviceSeed + 3; ++seed) {
    SCOPED_TRACE(seed);
    const TrainingRun run = make_scenario(seed, folder.path());
    std::set<std::string> backends;
    for (int n = 0; n < run.network.size(); ++n) {
      backends.insert(scenario_backend(run, n, GetParam()));
      rounded += run.wire_dtype() == Dtype::kBf16;
      cast += run.wire_dtype() != as_node(run, n).dtype();
    }
    ASSERT_TRUE(backends.contains(GetParam()));
    (backends.size() == 1 ? alone : beside) += 1;
    const std::vector<NodeRecord> records = run_in_threads(run, GetParam());
    expect_complete(run, records);
    expect_equal(records, run_oracle(run, records, GetParam()));
    TrainingRun plain = run;
    plain.file.dtype = "f32";
    plain.file.wire_dtype = "auto";
    const bool exact = run.dtype() == Dtype::kF32 && run.wire_dtype() == Dtype::kF32;
    expect_losses_near(records, run_in_threads(plain, "cpu"), exact ? 1e-5 : 5e-3);
    if (HasFatalFailure()) return;
  }
  EXPECT_GE(alone, 1);
  EXPECT_GE(beside, 2);
  EXPECT_GE(rounded, 1);
  EXPECT_GE(cast, 1);
}

// A peer that is there but does nothing: nobody waits for ever.
TEST(Distributed, ANodeForWhichNothingComesGivesUp) {
  const TempFolder folder;
  TrainingRun run = make_scenario(1, folder.path());
  run.file.stall_limit_s = 0.01;
  InProcessNetwork network(run.network.size(), run.file.run_id);
  const int node = run.plan.microbatches.front().data_node();
  try {
    run_node(run, node, network.transport(node));
    FAIL() << "ran without its peers";
  } catch (const PeerError& error) {
    EXPECT_NE(std::string(error.what()).find("this node waits for iteration 0"), std::string::npos) << error.what();
  }
}

// The same over UCX, a process per node.
TEST(Distributed, EqualsTheOracleInProcesses) {
  for (const uint64_t seed : {1, 2, 5, 4}) {
    SCOPED_TRACE(seed);
    const TempFolder folder;
    const TrainingRun run = make_scenario(seed, folder.path());
    EXPECT_TRUE(seed == 4 || (has_skips(run.plan) && has_swaps(run.plan)));
    const LocalAddresses local = listen_locally(run.network.size());
    const std::string addresses = fmt::format("{}", fmt::join(local.addresses, ","));
    std::vector<int> codes;
    std::string said;
    Processes processes([&](int, const std::string& line) { said += line + "\n"; },
                        [&](int, int code) { codes.push_back(code); });
    for (int n = 0; n < run.network.size(); ++n)
      processes.start({SKIPPIPE_DISTRIBUTED_NODE, std::to_string(seed), std::to_string(n), folder.path().string(),
                       addresses, std::to_string(local.listeners[static_cast<size_t>(n)].get())},
                      local.listeners[static_cast<size_t>(n)].get());
    processes.wait(-1, std::chrono::seconds(120));
    ASSERT_EQ(codes, std::vector<int>(static_cast<size_t>(run.network.size()), 0)) << said;
    std::vector<NodeRecord> records;
    for (int n = 0; n < run.network.size(); ++n)
      records.push_back(load_record(folder.path() / fmt::format("record-{}", n)));
    expect_complete(run, records);
    expect_equal(records, run_oracle(run, records));
  }
}

}  // namespace
}  // namespace skippipe::testing
