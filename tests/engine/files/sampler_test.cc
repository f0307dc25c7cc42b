#include "engine/files/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "base/error.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

// A shard whose token at position i is i, so that a window tells where it was read.
class SamplerTest : public ::testing::Test {
 protected:
  TokenShard make_shard(int32_t tokens) const {
    TokenShardWriter writer(folder_ / "s", 1 << 20, 0);
    std::vector<int32_t> values(static_cast<size_t>(tokens));
    for (int32_t i = 0; i < tokens; ++i) values[static_cast<size_t>(i)] = i;
    writer.append(values);
    writer.end_document();
    writer.finish();
    return TokenShard(folder_ / "s");
  }

  const TempFolder folder_;
};

TEST_F(SamplerTest, TargetsAreTheNextTokens) {
  const TokenShard shard = make_shard(1000);
  const Sampler sampler(shard, {.batch = 3, .sequence = 16, .microbatches = 4}, 1);
  std::vector<int32_t> tokens(48);
  std::vector<int32_t> targets(48);
  sampler.fill(2, 3, tokens, targets);
  for (size_t b = 0; b < 3; ++b) {
    EXPECT_EQ(static_cast<uint64_t>(tokens[b * 16]), sampler.sample_begin((2 * 4 + 3) * 3 + b));
    for (size_t t = 0; t < 16; ++t) {
      EXPECT_EQ(tokens[b * 16 + t], tokens[b * 16] + static_cast<int32_t>(t));
      EXPECT_EQ(targets[b * 16 + t], tokens[b * 16 + t] + 1);
    }
  }
}

TEST_F(SamplerTest, IsAPureFunctionOfSeedIterationAndMicrobatch) {
  const TokenShard shard = make_shard(1000);
  const SamplerShape shape = {.batch = 2, .sequence = 8, .microbatches = 3};
  const Sampler sampler(shard, shape, 5);
  const Sampler again(shard, shape, 5);
  const Sampler other(shard, shape, 6);
  std::vector<int32_t> a(16), b(16), targets(16);
  int equal = 0;
  for (const uint32_t iteration : {7u, 0u, 4000000000u, 7u})
    for (const uint32_t microbatch : {2u, 0u, 1u}) {
      sampler.fill(iteration, microbatch, a, targets);
      again.fill(iteration, microbatch, b, targets);
      EXPECT_EQ(a, b);
      other.fill(iteration, microbatch, b, targets);
      equal += a == b ? 1 : 0;
    }
  EXPECT_LE(equal, 1);
}

// A run that goes on with other numbers of samples and microbatches reads on where it was, across epochs, too.
TEST_F(SamplerTest, GoesOnWithTheNextSample) {
  const TokenShard shard = make_shard(300);
  constexpr SamplerShape kBefore = {.batch = 2, .sequence = 8, .microbatches = 3};
  const Sampler whole(shard, kBefore, 5);
  for (const uint32_t iteration : {0u, 7u, 1000u})
    for (const SamplerShape& after : {SamplerShape{.batch = 1, .sequence = 8, .microbatches = 5},
                                      SamplerShape{.batch = 4, .sequence = 8, .microbatches = 6}, kBefore}) {
      SamplerShape resumed = after;
      resumed.first_iteration = iteration;
      resumed.first_sample = kBefore.samples_before(iteration);
      const Sampler sampler(shard, resumed, 5);
      const auto batch = static_cast<size_t>(resumed.batch);
      std::vector<int32_t> tokens(batch * 8), targets(batch * 8);
      uint64_t next = uint64_t{iteration} * 6;
      for (uint32_t i = iteration; i < iteration + 20; ++i) {
        EXPECT_EQ(resumed.samples_before(i), next);
        for (uint32_t m = 0; m < resumed.microbatches; ++m) {
          sampler.fill(i, m, tokens, targets);
          for (size_t b = 0; b < batch; ++b)
            ASSERT_EQ(static_cast<uint64_t>(tokens[b * 8]), whole.sample_begin(next++));
        }
      }
      if (iteration > 0) SKP_EXPECT_ERROR(sampler.fill(iteration - 1, 0, tokens, targets), InternalError, "before");
    }
}

// For shards of every awkward size: an epoch reads every window once, windows do not overlap, nothing is read behind
// the end, and all but less than two windows' worth of tokens is seen.
TEST_F(SamplerTest, AnEpochSeesEveryWindowOnce) {
  for (const int32_t tokens : {9, 10, 16, 17, 23, 24, 25, 40, 41, 100, 129, 136, 137, 1000, 2057})
    for (const uint64_t seed : {1u, 2u, 3u}) {
      constexpr uint64_t kSequence = 8;
      const TokenShard shard = make_shard(tokens);
      const Sampler sampler(shard, {.batch = 1, .sequence = kSequence, .microbatches = 1}, seed);
      ASSERT_GE((sampler.windows() + 2) * kSequence, static_cast<uint64_t>(tokens));
      for (uint64_t epoch = 0; epoch < 4; ++epoch) {
        std::set<uint64_t> begins;
        for (uint64_t i = 0; i < sampler.windows(); ++i)
          begins.insert(sampler.sample_begin(epoch * sampler.windows() + i));
        ASSERT_EQ(begins.size(), sampler.windows()) << tokens << " tokens, seed " << seed;
        ASSERT_LE(*begins.rbegin() + kSequence + 1, static_cast<uint64_t>(tokens));
        for (const uint64_t begin : begins) ASSERT_EQ(begin % kSequence, *begins.begin() % kSequence);
      }
    }
}

TEST_F(SamplerTest, EpochsDifferInOrderAndOffset) {
  const TokenShard shard = make_shard(10000);
  const Sampler sampler(shard, {.batch = 1, .sequence = 64, .microbatches = 1}, 1);
  std::set<uint64_t> offsets;
  uint64_t same_window = 0;
  for (uint64_t epoch = 0; epoch < 50; ++epoch) {
    offsets.insert(sampler.sample_begin(epoch * sampler.windows()) % 64);
    for (uint64_t i = 0; i < sampler.windows(); ++i)
      same_window += sampler.sample_begin(epoch * sampler.windows() + i) / 64 == sampler.sample_begin(i) / 64 ? 1 : 0;
  }
  EXPECT_GT(offsets.size(), 25u);                      // 50 draws of 64: 35 are expected
  EXPECT_LT(same_window, sampler.windows() + 50 * 8);  // epoch 0 with itself, and by chance about 1 in each other epoch
}

// The order is not that of the text: over many epochs, every place of the epoch sees every window about equally often.
TEST_F(SamplerTest, TheOrderIsEven) {
  const TokenShard shard = make_shard(8 * 12);
  const Sampler sampler(shard, {.batch = 1, .sequence = 8, .microbatches = 1}, 1);
  const uint64_t windows = sampler.windows();
  ASSERT_EQ(windows, 11u);
  constexpr uint64_t kEpochs = 11000;
  std::vector<int> counts(windows * windows);
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch)
    for (uint64_t i = 0; i < windows; ++i)
      ++counts[i * windows + sampler.sample_begin(epoch * windows + i) / 8 % windows];
  const double expected = static_cast<double>(kEpochs) / static_cast<double>(windows);
  for (const int count : counts) EXPECT_NEAR(count, expected, 6 * std::sqrt(expected));
}

TEST_F(SamplerTest, RefusesWhatItCannotSample) {
  const TokenShard shard = make_shard(16);
  const auto make = [&](SamplerShape shape) { Sampler sampler(shard, shape, 1); };
  SKP_EXPECT_ERROR(make({.batch = 1, .sequence = 16, .microbatches = 1}), ConfigError,
                   "16 tokens, a sequence of 16 needs 17");
  SKP_EXPECT_ERROR(make({.batch = 0, .sequence = 8, .microbatches = 1}), ConfigError, "batch 0");
  SKP_EXPECT_ERROR(make({.batch = 1, .sequence = -8, .microbatches = 1}), ConfigError, "sequence -8");
  SKP_EXPECT_ERROR(make({.batch = 1, .sequence = 8, .microbatches = int64_t{1} << 40}), ConfigError, "microbatches");
  const Sampler sampler(shard, {.batch = 1, .sequence = 15, .microbatches = 1}, 1);
  std::vector<int32_t> tokens(15), targets(14);
  SKP_EXPECT_ERROR(sampler.fill(0, 0, tokens, targets), ShapeError, "expected 1 x 15");
  SKP_EXPECT_ERROR(sampler.fill(0, 1, tokens, tokens), InternalError, "microbatch 1 of 1");
}

}  // namespace
}  // namespace skippipe
