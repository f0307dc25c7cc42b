#include "engine/probe.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/engine/test_model.h"
#include "tests/expect_error.h"

namespace skippipe {
namespace {

using test::tiny_config;

TEST(Quartiles, AreThoseOfTheSortedValues) {
  const Measured measured = quartiles({5, 1, 4, 2, 3});
  EXPECT_EQ(measured.low_s, 2);
  EXPECT_EQ(measured.median_s, 3);
  EXPECT_EQ(measured.high_s, 4);
  EXPECT_EQ(quartiles({7}).median_s, 7);
  SKP_EXPECT_ERROR(quartiles({}), InternalError, "nothing was measured");
}

// No word on how fast: that the fields of the network follow from what was measured.
TEST(Probe, FiguresFollowFromTheMeasurements) {
  const ProbeSettings settings = {.batch = {3, 16}, .layers_per_stage = 2, .threads = 1, .repetitions = 3};
  const ProbeResult result = probe(tiny_config(3), settings);
  for (const Measured& task : {result.forward, result.backward, result.loss, result.step}) {
    EXPECT_GT(task.low_s, 0);
    EXPECT_LE(task.low_s, task.median_s);
    EXPECT_LE(task.median_s, task.high_s);
  }
  EXPECT_DOUBLE_EQ(result.forward_s * 3 * 2, result.forward.median_s);
  EXPECT_DOUBLE_EQ(result.backward_over_forward * result.forward.median_s, result.backward.median_s);
  EXPECT_DOUBLE_EQ(result.loss_over_forward * result.forward.median_s, result.loss.median_s);
  EXPECT_GE(result.step_gradient_bytes, 2 * tiny_config(3).layer_parameters() * 4);
  EXPECT_DOUBLE_EQ(result.step_s_per_byte * static_cast<double>(result.step_gradient_bytes), result.step.median_s);

  NetworkNode node;
  node.name = "n";
  node.slots = 5;
  apply(node, result);
  EXPECT_EQ(node.forward_s, result.forward_s);
  EXPECT_EQ(node.backward_over_forward, result.backward_over_forward);
  EXPECT_EQ(node.loss_over_forward, result.loss_over_forward);
  EXPECT_EQ(node.step_s_per_byte, result.step_s_per_byte);
  EXPECT_EQ(node.slots, 5);
}

TEST(Probe, RefusesWhatCannotBeMeasured) {
  SKP_EXPECT_ERROR(probe(tiny_config(), {.batch = {1, 8}, .repetitions = 0}), ConfigError, "0 repetitions");
  SKP_EXPECT_ERROR(probe(tiny_config(), {.batch = {1, 8}, .layers_per_stage = 0}), ConfigError, "0 layers per stage");
  EXPECT_THROW(probe(tiny_config(), {.batch = {0, 8}}), ConfigError);
}

}  // namespace
}  // namespace skippipe
