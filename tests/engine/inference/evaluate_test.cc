#include "engine/inference/evaluate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "base/error.h"
#include "kernels/cpu_backend.h"
#include "tests/engine/test_model.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"

namespace skippipe {
namespace {

using test::TestModel;
using test::tiny_config;
using test::values_of;

TEST(PathWithout, LeavesOutWhatIsNamed) {
  EXPECT_EQ(path_without(5, {}), (StagePath{0, 1, 2, 3, 4}));
  EXPECT_EQ(path_without(5, std::vector{4, 2}), (StagePath{0, 1, 3}));
  EXPECT_EQ(path_without(1, {}), StagePath{0});
  SKP_EXPECT_ERROR(path_without(5, std::vector{0}), ConfigError, "stage 0 cannot be left out, expected 1 to 4");
  SKP_EXPECT_ERROR(path_without(5, std::vector{5}), ConfigError, "stage 5");
  SKP_EXPECT_ERROR(path_without(5, std::vector{2, 2}), ConfigError, "stage 2 is named twice");
  SKP_EXPECT_ERROR(path_without(1, std::vector{1}), ConfigError,
                   "stage 1 cannot be left out: the model has stage 0 alone");
}

TEST(RandomPaths, AreDifferentValidAndReplay) {
  const auto paths = random_paths(9, 1.0 / 3, 20, 4);
  EXPECT_EQ(paths.size(), 20u);
  EXPECT_EQ(std::set<StagePath>(paths.begin(), paths.end()).size(), 20u);
  for (const StagePath& path : paths) {
    EXPECT_EQ(path.size(), 6u);
    EXPECT_EQ(path.front(), 0);
    EXPECT_TRUE(std::ranges::is_sorted(path));
    EXPECT_LT(path.back(), 9);
  }
  EXPECT_EQ(random_paths(9, 1.0 / 3, 20, 4), paths);
  EXPECT_NE(random_paths(9, 1.0 / 3, 20, 5), paths);
}

TEST(RandomPaths, ThereAreNoMoreThanThereCanBe) {
  EXPECT_EQ(random_paths(4, 0.25, 100, 1).size(), 3u);  // one of stages 1, 2, 3
  EXPECT_EQ(random_paths(5, 0.4, 100, 1).size(), 6u);   // 2 of 4
  EXPECT_EQ(random_paths(4, 0, 100, 1).size(), 1u);
  EXPECT_EQ(random_paths(2, 0.5, 100, 1), std::vector<StagePath>{{0}});
  EXPECT_EQ(random_paths(64, 0.5, 3, 1).size(), 3u);  // of 9e17
  SKP_EXPECT_ERROR(random_paths(1, 0.5, 1, 1), ConfigError, "stage 0 stays");
  SKP_EXPECT_ERROR(random_paths(4, 1, 1, 1), ConfigError, "a share of 1");
  SKP_EXPECT_ERROR(random_paths(4, -0.1, 1, 1), ConfigError, "a share of -0.1");
  SKP_EXPECT_ERROR(random_paths(4, std::nan(""), 1, 1), ConfigError, "a share of nan");
  SKP_EXPECT_ERROR(random_paths(4, 0.5, 0, 1), ConfigError, "0 choices");
}

class EvaluateTest : public ::testing::Test {
 protected:
  static constexpr BatchShape kBatch = {2, 6};
  static inline const std::vector<int> kLayers = {1, 1, 1};

  EvaluateTest()
      : config_(tiny_config(3)), model_(make_cpu_backend(), config_, kLayers, kBatch, 1, StagePurpose::kEvaluation) {
    for (int i = 0; i < model_.stages(); ++i) model_.stage(i).initialize(3);
  }

  TokenShard make_shard(uint64_t tokens, uint32_t vocabulary = 37) const {
    TokenShardWriter writer(folder_ / "s", vocabulary, 0);
    Random random(8);
    for (uint64_t i = 0; i < tokens; ++i)
      writer.append(std::vector{static_cast<int32_t>(random.below(std::min(vocabulary, 37u)))});
    if (tokens > 0) writer.end_document();
    writer.finish();
    return TokenShard(folder_ / "s");
  }

  // The same loss without sharing anything: a window at a time, stage after stage.
  LossSum window_loss(const TokenShard& shard, uint64_t begin, const StagePath& path) const {
    TestModel model(config_, kLayers, {1, kBatch.tokens});
    model.initialize(3);
    const uint64_t count = std::min<uint64_t>(kBatch.tokens, shard.info().tokens - 1 - begin);
    std::vector<int32_t> tokens(kBatch.tokens, 0);
    std::vector<int32_t> targets(kBatch.tokens, -1);
    shard.read(begin, std::span(tokens).first(count));
    shard.read(begin + 1, std::span(targets).first(count));
    model.fill_tokens(0, tokens, targets);
    model.forward(0, path);
    return model.stage(0).evaluate_loss(0, model.stage(0).returned(0));
  }

  const TempFolder folder_;
  const ModelConfig config_;
  LocalModel model_;
};

TEST_F(EvaluateTest, EveryTokenButTheFirstIsPredictedOnce) {
  const std::vector<StagePath> paths = {{0, 1, 2}, {0, 2}, {0}};
  for (const uint64_t tokens : {2u, 6u, 7u, 8u, 13u, 14u, 40u}) {
    const TokenShard shard = make_shard(tokens);
    const auto losses = evaluate(model_, {&shard, 0}, paths);
    ASSERT_EQ(losses.size(), 3u);
    for (size_t i = 0; i < paths.size(); ++i) {
      double sum = 0;
      for (uint64_t begin = 0; begin + 1 < tokens; begin += kBatch.tokens)
        sum += window_loss(shard, begin, paths[i]).sum;
      EXPECT_EQ(losses[i].tokens, static_cast<int64_t>(tokens - 1));
      EXPECT_NEAR(losses[i].sum, sum, 1e-4 * sum) << tokens << " tokens, path " << i;
    }
    EXPECT_NE(losses[0].sum, losses[1].sum);
  }
}

TEST_F(EvaluateTest, SamplesAreSpreadOverTheShard) {
  const TokenShard shard = make_shard(1 + 9 * 6);
  const std::vector<StagePath> paths = {{0, 1, 2}};
  const LossSum loss = evaluate(model_, {&shard, 3}, paths).front();
  EXPECT_EQ(loss.tokens, 18);
  const double sum =
      window_loss(shard, 0, paths[0]).sum + window_loss(shard, 18, paths[0]).sum + window_loss(shard, 36, paths[0]).sum;
  EXPECT_NEAR(loss.sum, sum, 1e-4 * sum);
  uint64_t calls = 0;
  evaluate(model_, {&shard, 0}, paths, [&](uint64_t done, uint64_t batches) {
    EXPECT_EQ(done, ++calls);
    EXPECT_EQ(batches, 5u);
  });
  EXPECT_EQ(calls, 5u);
}

TEST_F(EvaluateTest, AModelThatKnowsNothingHasThePerplexityOfItsVocabulary) {
  LocalModel blank(make_cpu_backend(), config_, kLayers, kBatch, 1,
                   StagePurpose::kEvaluation);  // weights are zeros: all logits are equal
  const TokenShard shard = make_shard(40);
  const std::vector<StagePath> paths = {{0, 1, 2}};
  EXPECT_NEAR(perplexity(evaluate(blank, {&shard, 0}, paths).front()), 37, 1e-3);
  EXPECT_TRUE(std::isinf(perplexity({.sum = 1e6, .tokens = 1})));
}

TEST_F(EvaluateTest, RefusesForeignShards) {
  const std::vector<StagePath> paths = {{0}};
  const TokenShard foreign = make_shard(10, 38);
  SKP_EXPECT_ERROR(evaluate(model_, {&foreign, 0}, paths), ConfigError, "a vocabulary of 38, the model has 37");
  const TokenShard tiny = make_shard(1);
  SKP_EXPECT_ERROR(evaluate(model_, {&tiny, 0}, paths), ConfigError, "1 tokens, expected at least 2");
  const TokenShard smaller = make_shard(10, 30);
  EXPECT_EQ(evaluate(model_, {&smaller, 0}, paths).front().tokens, 9);
}

}  // namespace
}  // namespace skippipe
