#include "engine/probe/probe.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/engine/test_model.h"
#include "tests/expect_error.h"

namespace skippipe {
namespace {

using test::tiny_config;

TEST(Quartiles, AreThoseOfTheSortedValues) {
  const Quartiles measured = quartiles({5, 1, 4, 2, 3});
  EXPECT_EQ(measured.low, 2);
  EXPECT_EQ(measured.median, 3);
  EXPECT_EQ(measured.high, 4);
  EXPECT_TRUE(measured.noisy());
  EXPECT_EQ(quartiles({7}).median, 7);
  EXPECT_FALSE(quartiles({7}).noisy());
  // A fifth of the median is still quiet.
  EXPECT_FALSE((Quartiles{10, 9, 11}).noisy());
  EXPECT_TRUE((Quartiles{10, 9, 11.5}).noisy());
  SKP_EXPECT_ERROR(quartiles({}), InternalError, "nothing was measured");
}

// No word on how fast: that the fields of the network follow from what was measured.
TEST(Probe, FiguresFollowFromTheMeasurements) {
  const ProbeSettings settings = {
      .batch = {3, 16}, .layers_per_stage = 2, .threads = 1, .repetitions = 3, .most_slots = 5};
  const ProbeResult result = probe(tiny_config(3), settings);
  for (const Quartiles& task : {result.forward, result.backward, result.loss, result.step}) {
    EXPECT_GT(task.low, 0);
    EXPECT_LE(task.low, task.median);
    EXPECT_LE(task.median, task.high);
  }
  EXPECT_DOUBLE_EQ(result.forward_s * 3 * 2, result.forward.median);
  EXPECT_DOUBLE_EQ(result.backward_over_forward * result.forward.median, result.backward.median);
  EXPECT_DOUBLE_EQ(result.loss_s * static_cast<double>(settings.batch.samples), result.loss.median);
  EXPECT_GE(result.step_gradient_bytes, 2 * tiny_config(3).layer_parameters() * 4);
  EXPECT_DOUBLE_EQ(result.step_s_per_byte * static_cast<double>(result.step_gradient_bytes), result.step.median);

  NetworkNode node;
  node.name = "n";
  apply(node, result);
  EXPECT_EQ(node.forward_s, result.forward_s);
  EXPECT_EQ(node.backward_over_forward, result.backward_over_forward);
  EXPECT_EQ(node.loss_s, result.loss_s);
  EXPECT_EQ(node.step_s_per_byte, result.step_s_per_byte);
  EXPECT_EQ(node.slots, 5);
  EXPECT_EQ(result.fitting_slots, 5) << "so small a model has room for all";
  EXPECT_EQ(node.device, "cpu");
  EXPECT_EQ(node.memory_bytes, result.memory_bytes);
}

TEST(Probe, SaysWhatItsSecondsAreFor) {
  const ModelConfig config = tiny_config(3);
  const MeasuredFor measured = measured_for(config, {3, 16}, Dtype::kBf16);
  EXPECT_EQ(describe_difference(measured, measured_for(tiny_config(5), {3, 16}, Dtype::kBf16)), "")
      << "a layer's seconds are those of a layer, however many there are";
  ModelConfig other = config;
  other.vocabulary = config.vocabulary + 1;
  EXPECT_EQ(describe_difference(measured, measured_for(other, {4, 16}, Dtype::kF32)),
            fmt::format("vocab_size {} (here {}), samples 3 (here 4), dtype bf16 (here f32)", config.vocabulary,
                        other.vocabulary));
}

TEST(Probe, NodesOfOneMachineShareItsMemory) {
  ProbeSettings settings = {.batch = {1, 8}, .repetitions = 1};
  const int64_t alone = probe(tiny_config(), settings).memory_bytes;
  EXPECT_GT(alone, 0);
  settings.nodes_on_machine = 1'000'000'000;
  SKP_EXPECT_ERROR(probe(tiny_config(), settings), MemoryError, "a stage with one slot");
}

TEST(Probe, RefusesWhatCannotBeMeasured) {
  SKP_EXPECT_ERROR(probe(tiny_config(), {.batch = {1, 8}, .repetitions = 0}), ConfigError, "0 repetitions");
  SKP_EXPECT_ERROR(probe(tiny_config(), {.batch = {1, 8}, .nodes_on_machine = 0}), ConfigError, "0 nodes on");
  SKP_EXPECT_ERROR(probe(tiny_config(), {.batch = {1, 8}, .layers_per_stage = 0}), ConfigError, "0 layers per stage");
  EXPECT_THROW(probe(tiny_config(), {.batch = {0, 8}}), ConfigError);
}

}  // namespace
}  // namespace skippipe
