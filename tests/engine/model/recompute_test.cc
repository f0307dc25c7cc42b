#include "engine/model/recompute.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/engine/test_model.h"
#include "tests/expect_error.h"

namespace skippipe {
namespace {

TEST(Recompute, NamesAreThoseOfTheRunFile) {
  for (const Recompute recompute : kRecomputes) EXPECT_EQ(parse_recompute(recompute_name(recompute)), recompute);
  SKP_EXPECT_ERROR(parse_recompute("auto"), ConfigError, "recompute: found 'auto', expected none, attention or block");
}

// Counted one multiplication after another, for all tokens of a sample.
TEST(Recompute, ShareIsThatOfTheProductsDoneAgain) {
  const ModelConfig config = test::tiny_config();
  constexpr int64_t kTokens = 13;
  double attention = 0, output = 0, gate_and_up = 0, down = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    attention += static_cast<double>(config.channels * (config.heads + 2 * config.kv_heads) * config.head_dim);
    for (int64_t s = 0; s <= t; ++s)  // a score, and a part of the output
      attention += static_cast<double>(config.heads * config.head_dim + config.heads * config.head_dim);
    output += static_cast<double>(config.heads * config.head_dim * config.channels);
    gate_and_up += static_cast<double>(config.channels * 2 * config.feed_forward);
    down += static_cast<double>(config.feed_forward * config.channels);
  }
  const double forward = attention + output + gate_and_up + down;
  EXPECT_EQ(recomputed_share(Recompute::kNone, config, kTokens), 0);
  EXPECT_DOUBLE_EQ(recomputed_share(Recompute::kAttention, config, kTokens), attention / forward);
  EXPECT_DOUBLE_EQ(recomputed_share(Recompute::kBlock, config, kTokens), (attention + output + gate_and_up) / forward);
}

}  // namespace
}  // namespace skippipe
