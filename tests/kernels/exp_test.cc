// The exponential that the CPU's loops inline, against the C library's in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/simd.h"

namespace skippipe::cpu {
namespace {

// Distance to the true value in units of the spacing of floats there.
double ulps(float actual, double expected) {
  const float nearest = static_cast<float>(expected);
  const double spacing = static_cast<double>(std::nextafter(nearest, std::numeric_limits<float>::infinity())) - nearest;
  return std::abs(actual - expected) / spacing;
}

// The one that this build uses and the one for machines without AVX-512.
class ExpTest : public ::testing::TestWithParam<Vec (*)(Vec)> {
 protected:
  float exp_of(float x) { return GetParam()(splat(x))[kLanes - 1]; }
};
INSTANTIATE_TEST_SUITE_P(Versions, ExpTest, ::testing::Values(&exp, &exp_portable));

TEST_P(ExpTest, WithinTwoUlpWhereResultsAreNormal) {
  double worst = 0;
  for (int i = 0; i <= 2000000; ++i) {
    const float x = -87.0f + 175.5f * static_cast<float>(i) / 2000000.0f;
    worst = std::max(worst, ulps(exp_of(x), std::exp(static_cast<double>(x))));
  }
  RecordProperty("worst_ulps", std::to_string(worst));
  EXPECT_LE(worst, 2.0);
}

TEST_P(ExpTest, RoundsGraduallyToZeroAndOverflowsToInfinity) {
  for (float x = -110.0f; x < -87.0f; x += 0.01f) EXPECT_NEAR(exp_of(x), std::exp(static_cast<double>(x)), 3e-45) << x;
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(exp_of(0.0f), 1.0f);
  EXPECT_EQ(exp_of(-infinity), 0.0f);
  EXPECT_EQ(exp_of(-1e30f), 0.0f);
  EXPECT_LT(exp_of(88.7f), infinity);
  EXPECT_EQ(exp_of(88.8f), infinity);
  EXPECT_EQ(exp_of(infinity), infinity);
  EXPECT_TRUE(std::isnan(exp_of(std::numeric_limits<float>::quiet_NaN())));
}

TEST(SimdTest, LaneReductions) {
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>((i * 5) % kLanes);
  EXPECT_EQ(max_lanes(v), kLanes - 1);
  EXPECT_EQ(sum_lanes(v), kLanes * (kLanes - 1) / 2);
}

}  // namespace
}  // namespace skippipe::cpu
