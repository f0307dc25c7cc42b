// The decoder against the forward pass of whole sequences that training and evaluation use.
#include "engine/inference/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

#include "base/error.h"
#include "engine/inference/generate.h"
#include "tests/engine/inference/test_decoder.h"
#include "tests/expect_error.h"

namespace skippipe {
namespace {

using test::decoder_spec;
using test::TestDecoder;
using test::TestModel;

constexpr int64_t kTokens = 40;

ModelConfig with(int64_t kv_heads, bool tied, bool scaled = false) {
  ModelConfig config = test::tiny_config();
  config.kv_heads = kv_heads;
  config.tied_embeddings = tied;
  if (scaled) config.rope_scaling = RopeScaling{.factor = 8, .original_max_position_embeddings = 16};
  return config;
}

// Weights with norms other than 1, and a sequence of tokens.
struct Sequence {
  Sequence(const ModelConfig& config, const std::vector<int>& layers_per_stage)
      : model(config, layers_per_stage, {1, kTokens}) {
    model.initialize(3);
    Random random(4);
    for (const auto& [name, parameter] : model.parameters())
      if (parameter.weight.rank() == 1)
        for (float& value : test::values_of(parameter.weight)) value = static_cast<float>(random.uniform(0.5, 1.5));
    model.fill_random_tokens(0, 5);
  }

  std::span<const int32_t> tokens() { return model.tokens(0); }
  // Row t: what may follow token t.
  std::vector<float> logits(const std::vector<int>& path) {
    model.forward(0, path);
    return model.logits(0);
  }

  TestModel model;
};

void expect_row(std::span<const float> found, const std::vector<float>& all, int64_t row) {
  const auto expected = std::span(all).subspan(static_cast<size_t>(row) * found.size(), found.size());
  float largest = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < found.size(); ++i)
    ASSERT_NEAR(found[i], expected[i], 1e-5f * largest) << "logit " << i << " behind token " << row;
}

struct Case {
  ModelConfig config;
  std::vector<int> layers_per_stage;
  std::vector<int> path;
};

std::vector<Case> cases() {
  return {{with(2, false), {1, 1, 1}, {0, 1, 2}}, {with(4, true), {1, 1, 1}, {0, 1, 2}},
          {with(1, false, true), {3}, {0}},       {with(2, false), {1, 1, 1}, {0, 2}},
          {with(2, true), {1, 1, 1}, {0}},        {with(2, false), {0, 1, 2}, {0, 2}},
          {with(2, false), {0, 3}, {0}}};
}

TEST(Decoder, LogitsEqualThoseOfWholeSequences) {
  for (const Case& at : cases()) {
    Sequence sequence(at.config, at.layers_per_stage);
    const std::vector<float> expected = sequence.logits(at.path);
    for (const int64_t chunk : {1, 7, 40})
      for (const int64_t prompt : {1, 2, 7, 15, 33, 40}) {
        SCOPED_TRACE(fmt::format("{} stages, chunks of {}, a prompt of {}", at.path.size(), chunk, prompt));
        TestDecoder decoder(decoder_spec(at.config, at.layers_per_stage, at.path, kTokens, chunk));
        decoder.copy_weights(sequence.model);
        expect_row(decoder->read(sequence.tokens().first(static_cast<size_t>(prompt))), expected, prompt - 1);
        for (int64_t t = prompt; t < kTokens; ++t)
          expect_row(decoder->read(sequence.tokens().subspan(static_cast<size_t>(t), 1)), expected, t);
        EXPECT_EQ(decoder->room(), 0);
      }
  }
}

TEST(Decoder, SeveralThreadsComputeTheSame) {
  Sequence sequence(with(2, false), {1, 1, 1});
  const std::vector<float> expected = sequence.logits({0, 1, 2});
  TestDecoder decoder(decoder_spec(sequence.model.config(), {1, 1, 1}, {0, 1, 2}, kTokens, 16), 3);
  decoder.copy_weights(sequence.model);
  expect_row(decoder->read(sequence.tokens().first(20)), expected, 19);
  expect_row(decoder->read(sequence.tokens().subspan(20, 1)), expected, 20);
}

TEST(Decoder, HoldsTheStagesOfItsPathOnly) {
  const ModelConfig config = with(2, false);
  TestDecoder all(decoder_spec(config, {1, 1, 1}, {0, 1, 2}, 10, 5)),
      some(decoder_spec(config, {1, 1, 1}, {0, 2}, 10, 5));
  for (const Parameter& parameter : some->parameters())
    EXPECT_EQ(parameter.name.find("layers.1."), std::string::npos) << parameter.name;
  EXPECT_LT(some.plan().bytes(Region::kWeights), all.plan().bytes(Region::kWeights));
  EXPECT_LT(some.plan().bytes(Region::kActivations), all.plan().bytes(Region::kActivations));
  EXPECT_NE(some.plan().table().find("of 10 positions in 2 layers"), std::string::npos) << some.plan().table();
}

TEST(Decoder, RefusesWhatDoesNotFit) {
  const ModelConfig config = with(2, false);  // of 64 positions, 37 tokens
  SKP_EXPECT_ERROR(TestDecoder(decoder_spec(config, {3}, {0}, 65, 1)), ConfigError,
                   "a sequence of 65 tokens, expected 1 to the model's max_position_embeddings, which is 64");
  SKP_EXPECT_ERROR(TestDecoder(decoder_spec(config, {3}, {0}, 10, 11)), ConfigError, "chunks of 11 tokens");
  ModelConfig huge = config;
  huge.max_positions = int64_t{1} << 61;
  SKP_EXPECT_ERROR(TestDecoder(decoder_spec(huge, {3}, {0}, huge.max_positions, 1)), Error, "");

  TestDecoder decoder(decoder_spec(config, {3}, {0}, 4, 2));
  const auto read = [&](const std::vector<int32_t>& tokens) { decoder->read(tokens); };
  SKP_EXPECT_ERROR(read({1, 2, 3, 4, 5}), ConfigError, "5 tokens behind 0 others, expected at most 4 in all");
  SKP_EXPECT_ERROR(read({1, 37}), ConfigError, "found token 37, expected 0 to 36");
  SKP_EXPECT_ERROR(read({-1}), ConfigError, "found token -1");
  EXPECT_EQ(decoder->room(), 4);
  read({1, 2, 3});
  SKP_EXPECT_ERROR(read({4, 5}), ConfigError, "2 tokens behind 3 others");
  EXPECT_EQ(decoder->room(), 1);
}

// ---------------------------------------------------------------------------------------------------- generate

GenerationSettings settings_for(const ModelConfig& config, int64_t max_tokens) {
  GenerationSettings settings;
  settings.vocabulary = static_cast<int32_t>(config.vocabulary);
  settings.max_tokens = max_tokens;
  return settings;
}

struct Generated {
  Generation generation;
  std::vector<int32_t> tokens;
};

Generated generated(Sequence& sequence, const std::vector<int>& path, size_t prompt,
                    const GenerationSettings& settings) {
  TestDecoder decoder(decoder_spec(sequence.model.config(), {1, 1, 1}, path, kTokens, 8));
  decoder.copy_weights(sequence.model);
  Generated result;
  result.generation = generate(*decoder, sequence.tokens().first(prompt), settings,
                               [&](int32_t token) { result.tokens.push_back(token); });
  return result;
}

// Without a cache: the whole sequence again for each token.
TEST(Generate, GreedyTokensEqualThoseOfWholeForwardPasses) {
  for (const std::vector<int>& path : {std::vector<int>{0, 1, 2}, std::vector<int>{0, 2}}) {
    Sequence sequence(with(2, false), {1, 1, 1});
    const Generated found = generated(sequence, path, 6, settings_for(sequence.model.config(), 1000));
    EXPECT_EQ(found.generation.end, GenerationEnd::kNoRoom);
    ASSERT_EQ(found.tokens.size(), static_cast<size_t>(kTokens) - 6 + 1);  // the last one is not read
    const auto width = static_cast<size_t>(sequence.model.config().vocabulary);
    std::vector<int32_t> ids = sequence.model.tokens(0);
    for (size_t i = 0; i < found.tokens.size(); ++i) {
      const std::vector<float> all = sequence.logits(path);
      const auto row = std::span(all).subspan((5 + i) * width, width);
      ASSERT_EQ(found.tokens[i], std::ranges::max_element(row) - row.begin()) << "token " << i;
      if (i + 1 == found.tokens.size()) break;
      ids[6 + i] = found.tokens[i];
      sequence.model.fill_tokens(0, ids, std::vector(sequence.model.targets(0)));
    }
  }
}

TEST(Generate, EndsWhereItIsTold) {
  Sequence sequence(with(2, false), {1, 1, 1});
  GenerationSettings settings = settings_for(sequence.model.config(), 5);
  settings.choice.temperature = 3;
  const Generated five = generated(sequence, {0, 1, 2}, 6, settings);
  EXPECT_EQ(five.generation.end, GenerationEnd::kMaxTokens);
  EXPECT_EQ(five.generation.tokens, 5);
  ASSERT_EQ(five.tokens.size(), 5u);
  const auto last = std::ranges::find(five.tokens, five.tokens.back());  // where it comes first
  settings.end_tokens = {five.tokens.back()};
  const Generated ended = generated(sequence, {0, 1, 2}, 6, settings);
  EXPECT_EQ(ended.generation.end, GenerationEnd::kEndToken);
  EXPECT_EQ(ended.tokens, std::vector<int32_t>(five.tokens.begin(), last));
}

TEST(Generate, EndsAtEachOfSeveralTokensAndChoosesTokensBeyondTheVocabulary) {
  Sequence sequence(with(2, false), {1, 1, 1});
  GenerationSettings settings = settings_for(sequence.model.config(), 30);
  settings.choice.temperature = 5;
  const auto width = static_cast<int32_t>(sequence.model.config().vocabulary);
  settings.vocabulary = 5;
  settings.more_tokens = {width - 1, 20, 21};
  const std::vector<int32_t> tokens = generated(sequence, {0, 1, 2}, 6, settings).tokens;
  std::set<int32_t> said;
  for (const int32_t token : tokens) {
    EXPECT_TRUE(token < 5 || token == 20 || token == 21 || token == width - 1) << token;
    said.insert(token);
  }
  EXPECT_TRUE(said.upper_bound(4) != said.end());
  // Whichever of two end tokens comes first.
  const auto late = tokens[tokens.size() / 2];
  settings.end_tokens = {36, late};
  const Generated ended = generated(sequence, {0, 1, 2}, 6, settings);
  EXPECT_EQ(ended.generation.end, GenerationEnd::kEndToken);
  EXPECT_LE(ended.tokens.size(), tokens.size() / 2);
  EXPECT_TRUE(std::ranges::equal(ended.tokens, std::span(tokens).first(ended.tokens.size())));
  EXPECT_TRUE(tokens[ended.tokens.size()] == late || tokens[ended.tokens.size()] == 36);
  settings.more_tokens = {4};
  SKP_EXPECT_ERROR(generated(sequence, {0, 1, 2}, 6, settings), ConfigError, "the token 4 to choose, expected 5 to 36");
  settings.more_tokens = {width};
  SKP_EXPECT_ERROR(generated(sequence, {0, 1, 2}, 6, settings), ConfigError, "the token 37 to choose");
}

TEST(Generate, TheSeedDecides) {
  Sequence sequence(with(2, false), {1, 1, 1});
  GenerationSettings settings = settings_for(sequence.model.config(), 30);
  settings.choice = {.temperature = 2, .top_k = 20, .top_p = 0.95};
  settings.vocabulary = 30;
  const auto first = generated(sequence, {0, 1, 2}, 6, settings).tokens;
  EXPECT_EQ(generated(sequence, {0, 1, 2}, 6, settings).tokens, first);
  for (const int32_t token : first) EXPECT_LT(token, 30);
  settings.seed = 2;
  EXPECT_NE(generated(sequence, {0, 1, 2}, 6, settings).tokens, first);
}

TEST(Generate, RefusesSettingsOutOfRange) {
  Sequence sequence(with(2, false), {1, 1, 1});
  const GenerationSettings good = settings_for(sequence.model.config(), 5);
  const auto run = [&](const GenerationSettings& settings, size_t prompt = 3) {
    generated(sequence, {0}, prompt, settings);
  };
  SKP_EXPECT_ERROR(run(good, 0), ConfigError, "an empty prompt");
  GenerationSettings bad = good;
  bad.max_tokens = 0;
  SKP_EXPECT_ERROR(run(bad), ConfigError, "0 tokens to generate");
  bad = good;
  bad.vocabulary = 38;
  SKP_EXPECT_ERROR(run(bad), ConfigError, "a vocabulary of 38, expected 1 to the model's 37");
  bad = good;
  bad.choice.top_p = 0;
  SKP_EXPECT_ERROR(run(bad), ConfigError, "top p of 0");
  test::values_of(sequence.model.parameters().at("model.norm.weight").weight)[0] = NAN;
  SKP_EXPECT_ERROR(run(good), RunError, "expected a finite number");
}

}  // namespace
}  // namespace skippipe
