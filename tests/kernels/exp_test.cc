// What the CPU's loops inline: the exponential against the C library's in double precision, reductions, bf16.
#include <gtest/gtest.h>

#include <bit>
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

// The vectors' rounding against Bf16's, on every bit pattern's neighbourhood between two bf16 numbers.
TEST(SimdTest, RoundsToBf16AsScalarsDo) {
  const auto expect_same = [](void (*round)(Bf16*, Vec), bool keeps_subnormals) {
    for (uint32_t upper = 0; upper < 0x10000; ++upper)
      for (const uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
        const float value = std::bit_cast<float>(upper << 16 | lower);
        const bool subnormal = (upper & 0x7f80) == 0;
        if (subnormal && !keeps_subnormals) continue;
        Bf16 rounded[kLanes];
        round(rounded, splat(value));
        if (std::isnan(value))
          ASSERT_TRUE(std::isnan(static_cast<float>(rounded[0]))) << upper << " " << lower;
        else
          ASSERT_EQ(rounded[kLanes - 1].bits, Bf16(value).bits) << upper << " " << lower;
      }
  };
  expect_same(&store_portable, true);
  expect_same(&store, false);
}

TEST(SimdTest, ReadsBf16AsScalarsDo) {
  Bf16 values[kLanes];
  for (int i = 0; i < kLanes; ++i) values[i] = Bf16(static_cast<float>(i) - 2.5f);
  const Vec v = load(values);
  for (int i = 0; i < kLanes; ++i) EXPECT_EQ(v[i], static_cast<float>(i) - 2.5f);
}

}  // namespace
}  // namespace skippipe::cpu
