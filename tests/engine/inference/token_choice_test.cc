#include "engine/inference/token_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "tests/expect_error.h"

namespace skippipe {
namespace {

// Shares in which the tokens of these probabilities are chosen.
std::vector<double> shares(const std::vector<double>& probabilities, const TokenChoice& choice, int draws = 20000) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  std::vector<double> counts(logits.size());
  Random random(7);
  for (int i = 0; i < draws; ++i) counts[static_cast<size_t>(choose_token(logits, choice, random))] += 1.0 / draws;
  return counts;
}

// Within five standard deviations, and never where nothing is expected; the small term is rounding.
void expect_shares(const std::vector<double>& found, const std::vector<double>& expected, int draws = 20000) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_NEAR(found[i], expected[i], 1e-9 + 5 * std::sqrt(expected[i] * (1 - expected[i]) / draws)) << "token " << i;
}

const std::vector<double> kProbabilities = {0.1, 0.4, 0.05, 0.3, 0.15};

TEST(TokenChoice, FollowsTheProbabilities) {
  expect_shares(shares(kProbabilities, {.temperature = 1}), kProbabilities);
}

TEST(TokenChoice, TemperatureSharpensAndFlattens) {
  for (const double temperature : {0.5, 2.0}) {
    std::vector<double> expected;
    double sum = 0;
    for (const double p : kProbabilities) sum += expected.emplace_back(std::pow(p, 1 / temperature));
    for (double& p : expected) p /= sum;
    expect_shares(shares(kProbabilities, {.temperature = temperature}), expected);
  }
}

TEST(TokenChoice, ZeroTemperatureTakesTheMostProbable) {
  Random random(1);
  const uint64_t untouched = Random(1)();
  const std::vector<float> logits = {-3, 2, 5, 5, 1};
  EXPECT_EQ(choose_token(logits, {}, random), 2);
  EXPECT_EQ(choose_token(logits, {.top_k = 1, .top_p = 0.1}, random), 2);
  EXPECT_EQ(random(), untouched);
}

TEST(TokenChoice, TopKKeepsTheMostProbable) {
  expect_shares(shares(kProbabilities, {.temperature = 1, .top_k = 2}), {0, 4.0 / 7, 0, 3.0 / 7, 0});
  expect_shares(shares(kProbabilities, {.temperature = 1, .top_k = 1}), {0, 1, 0, 0, 0});
  expect_shares(shares(kProbabilities, {.temperature = 1, .top_k = 5}), kProbabilities);
  expect_shares(shares(kProbabilities, {.temperature = 1, .top_k = 500}), kProbabilities);
}

TEST(TokenChoice, TopPKeepsTheFewestThatReachIt) {
  expect_shares(shares(kProbabilities, {.temperature = 1, .top_p = 0.6}), {0, 4.0 / 7, 0, 3.0 / 7, 0});
  expect_shares(shares(kProbabilities, {.temperature = 1, .top_p = 0.71}), {0, 8.0 / 17, 0, 6.0 / 17, 3.0 / 17});
  expect_shares(shares(kProbabilities, {.temperature = 1, .top_p = 1e-9}), {0, 1, 0, 0, 0});
  expect_shares(shares(kProbabilities, {.temperature = 1, .top_p = 1}), kProbabilities);
}

// The share is one of what top k left, of probabilities that the temperature changed.
TEST(TokenChoice, AppliesTemperatureThenTopKThenTopP) {
  // Of 0.4 and 0.3 the first has 0.57; of all it has 0.4.
  expect_shares(shares(kProbabilities, {.temperature = 1, .top_k = 2, .top_p = 0.5}), {0, 1, 0, 0, 0});
  expect_shares(shares(kProbabilities, {.temperature = 1, .top_k = 0, .top_p = 0.5}), {0, 4.0 / 7, 0, 3.0 / 7, 0});
  // At temperature 0.5 it has 0.16 / 0.285.
  expect_shares(shares(kProbabilities, {.temperature = 0.5, .top_p = 0.5}), {0, 1, 0, 0, 0});
}

TEST(TokenChoice, EqualLogitsAreKeptByTheirOrder) {
  const std::vector<double> equal(6, 1.0 / 6);
  const auto first = [](size_t count) {
    std::vector<double> expected(6);
    std::fill_n(expected.begin(), count, 1.0 / static_cast<double>(count));
    return expected;
  };
  expect_shares(shares(equal, {.temperature = 1, .top_k = 2}), first(2));
  expect_shares(shares(equal, {.temperature = 1, .top_p = 0.4}), first(3));
}

TEST(TokenChoice, OneDrawDecides) {
  std::vector<float> logits(1000);
  Random values(3);
  for (float& logit : logits) logit = static_cast<float>(values.uniform(-5, 5));
  for (const TokenChoice& choice : {TokenChoice{.temperature = 1}, TokenChoice{.temperature = 1, .top_k = 20},
                                    TokenChoice{.temperature = 2, .top_p = 0.9}}) {
    Random a(5), b(5), counted(5);
    for (int i = 0; i < 20; ++i, counted()) ASSERT_EQ(choose_token(logits, choice, a), choose_token(logits, choice, b));
    EXPECT_EQ(a(), counted());
  }
}

TEST(TokenChoice, LargeLogitsAndSmallTemperaturesStayFinite) {
  Random random(1);
  EXPECT_EQ(choose_token(std::vector<float>{1e38f, -1e38f, 3e38f}, {.temperature = 1}, random), 2);
  EXPECT_EQ(choose_token(std::vector<float>{1, 1.0001f, 0}, {.temperature = 1e-300, .top_p = 0.5}, random), 1);
  EXPECT_EQ(choose_token(std::vector<float>{-7}, {.temperature = 1, .top_k = 3, .top_p = 0.5}, random), 0);
}

TEST(TokenChoice, RefusesLogitsThatAreNotFinite) {
  Random random(1);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()})
    for (const double temperature : {0.0, 1.0})
      SKP_EXPECT_ERROR(choose_token(std::vector<float>{1, bad, 2}, {.temperature = temperature}, random), RunError,
                       "the model's logit of token 1 is");
}

TEST(TokenChoice, RefusesSettingsOutOfRange) {
  Random random(1);
  const std::vector<float> logits = {1, 2};
  SKP_EXPECT_ERROR(choose_token(logits, {.temperature = -1}, random), ConfigError, "a temperature of -1");
  SKP_EXPECT_ERROR(choose_token(logits, {.temperature = NAN}, random), ConfigError, "a temperature of nan");
  SKP_EXPECT_ERROR(choose_token(logits, {.top_k = -2}, random), ConfigError, "top k of -2");
  SKP_EXPECT_ERROR(choose_token(logits, {.top_p = 0}, random), ConfigError, "top p of 0, expected more than 0");
  SKP_EXPECT_ERROR(choose_token(logits, {.top_p = 1.5}, random), ConfigError, "top p of 1.5");
  SKP_EXPECT_ERROR(choose_token(logits, {.top_p = NAN}, random), ConfigError, "top p of nan");
}

}  // namespace
}  // namespace skippipe
