#include "engine/node/learning_rate.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace skippipe {
namespace {

TEST(LearningRate, WarmsUpLinearlyUnderEverySchedule) {
  for (const Schedule schedule : {Schedule::kConstant, Schedule::kCosine, Schedule::kWarmupStableDecay}) {
    const LearningRate rate{schedule, 2.0, 4, 100, 10, 0.1};
    EXPECT_DOUBLE_EQ(rate.at(0), 0.5);
    EXPECT_DOUBLE_EQ(rate.at(1), 1.0);
    EXPECT_DOUBLE_EQ(rate.at(3), 2.0);
    EXPECT_DOUBLE_EQ(rate.at(4), 2.0);
  }
}

TEST(LearningRate, ConstantStays) {
  const LearningRate rate{Schedule::kConstant, 3.0, 0, 10, 0, 0.1};
  EXPECT_DOUBLE_EQ(rate.at(0), 3.0);
  EXPECT_DOUBLE_EQ(rate.at(1000), 3.0);
}

TEST(LearningRate, CosineGoesThroughTheMiddleToTheEnd) {
  const LearningRate rate{Schedule::kCosine, 2.0, 10, 110, 0, 0.25};
  EXPECT_DOUBLE_EQ(rate.at(60), 1.25);  // the mean of 2.0 and 0.5
  EXPECT_NEAR(rate.at(35), 0.5 + 1.5 * 0.5 * (1 + 0.70710678118654752), 1e-12);
  EXPECT_DOUBLE_EQ(rate.at(110), 0.5);
  EXPECT_DOUBLE_EQ(rate.at(5000), 0.5);
}

TEST(LearningRate, WarmupStableDecayIsStableThenLinear) {
  const LearningRate rate{Schedule::kWarmupStableDecay, 1.0, 10, 100, 20, 0.0};
  EXPECT_DOUBLE_EQ(rate.at(50), 1.0);
  EXPECT_DOUBLE_EQ(rate.at(80), 1.0);
  EXPECT_DOUBLE_EQ(rate.at(90), 0.5);
  EXPECT_DOUBLE_EQ(rate.at(95), 0.25);
  EXPECT_DOUBLE_EQ(rate.at(100), 0.0);
}

TEST(LearningRate, NamesRoundTripAndUnknownOnesAreRefused) {
  for (const Schedule schedule : {Schedule::kConstant, Schedule::kCosine, Schedule::kWarmupStableDecay})
    EXPECT_EQ(parse_schedule(schedule_name(schedule)), schedule);
  EXPECT_THROW(parse_schedule("linear"), ConfigError);
}

TEST(LearningRate, RefusesFieldsOutOfRange) {
  const LearningRate good{Schedule::kWarmupStableDecay, 1.0, 10, 100, 20, 0.1};
  EXPECT_NO_THROW(good.check());
  const auto refused = [&](auto change) {
    LearningRate bad = good;
    change(bad);
    EXPECT_THROW(bad.check(), ConfigError);
  };
  refused([](LearningRate& rate) { rate.peak = -1; });
  refused([](LearningRate& rate) { rate.peak = std::numeric_limits<double>::quiet_NaN(); });
  refused([](LearningRate& rate) { rate.final_share = 1.5; });
  refused([](LearningRate& rate) { rate.total_iterations = -1; });
  refused([](LearningRate& rate) { rate.warmup_iterations = 101; });
  refused([](LearningRate& rate) { rate.decay_iterations = 91; });
}

}  // namespace
}  // namespace skippipe
