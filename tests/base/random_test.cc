#include "base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <vector>

namespace skippipe {
namespace {

// The first outputs of the published generator seeded with 0: state 0, 1 * gamma, 2 * gamma.
TEST(MixBits, IsSplitMix64) {
  constexpr uint64_t kGamma = 0x9e3779b97f4a7c15ull;
  EXPECT_EQ(mix_bits(0), 0xe220a8397b1dcdafull);
  EXPECT_EQ(mix_bits(kGamma), 0x6e789e6aa1b965f4ull);
  EXPECT_EQ(mix_bits(2 * kGamma), 0x06c45d188009454full);
}

TEST(Random, ReplaysFromSeedAndStream) {
  Random a(7, {1, 2});
  Random b(7, {1, 2});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a(), b());
}

TEST(Random, StreamsDiffer) {
  std::set<uint64_t> first;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    first.insert(Random(seed)());
    for (uint64_t i = 0; i < 30; ++i) {
      first.insert(Random(seed, {i})());
      for (uint64_t j = 0; j < 30; ++j) first.insert(Random(seed, {i, j})());
    }
  }
  EXPECT_EQ(first.size(), 30u + 30 * 30 + 30 * 30 * 30);
}

TEST(Random, UniformLiesInItsRangeWithTheRightMoments) {
  Random random(1);
  double sum = 0;
  double squares = 0;
  constexpr int kDraws = 200000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.uniform(2, 4);
    ASSERT_GE(x, 2);
    ASSERT_LT(x, 4);
    sum += x;
    squares += (x - 3) * (x - 3);
  }
  EXPECT_NEAR(sum / kDraws, 3, 0.01);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.01);
}

TEST(Random, BelowIsEven) {
  Random random(2);
  constexpr int kDraws = 70000;
  std::array<int, 7> counts{};
  for (int i = 0; i < kDraws; ++i) {
    const uint64_t x = random.below(7);
    ASSERT_LT(x, 7u);
    ++counts[x];
  }
  for (const int count : counts) EXPECT_NEAR(count, kDraws / 7, 400);  // over 4 standard deviations
  EXPECT_EQ(random.below(1), 0u);
}

TEST(Random, NormalHasTheRightMoments) {
  Random random(3);
  double sum = 0;
  double squares = 0;
  int beyond_two = 0;
  constexpr int kDraws = 200000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
    beyond_two += std::abs(x) > 2 ? 1 : 0;
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.01);
  EXPECT_NEAR(squares / kDraws, 1, 0.015);
  EXPECT_NEAR(beyond_two / static_cast<double>(kDraws), 0.0455, 0.003);
}

TEST(Random, ShuffleKeepsTheElementsAndReachesEveryOrder) {
  std::set<std::array<int, 4>> orders;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    std::array<int, 4> items = {0, 1, 2, 3};
    Random(seed).shuffle(items);
    orders.insert(items);
    std::ranges::sort(items);
    ASSERT_EQ(items, (std::array<int, 4>{0, 1, 2, 3}));
  }
  EXPECT_EQ(orders.size(), 24u);
}

}  // namespace
}  // namespace skippipe
