#include "engine/files/shard_windows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/temp_folder.h"

namespace skippipe {
namespace {

using ::testing::ElementsAre;

// The token at position i is i.
TokenShard make_shard(const TempFolder& folder, int32_t tokens) {
  TokenShardWriter writer(folder / "s", 1 << 20, 0);
  std::vector<int32_t> values(static_cast<size_t>(tokens));
  std::iota(values.begin(), values.end(), 0);
  writer.append(values);
  writer.end_document();
  writer.finish();
  return TokenShard(folder / "s");
}

TEST(ShardWindows, AreSpreadOverTheShardAndTheSameEachTime) {
  const TempFolder folder;
  const TokenShard shard = make_shard(folder, 25);  // 8 windows of 3
  const ShardWindows windows(shard, 2, 3, 3);
  ASSERT_EQ(windows.batches(), 2u);
  std::vector<int32_t> tokens(6), targets(6);
  for (int again = 0; again < 2; ++again) {
    windows.fill(0, tokens, targets);
    EXPECT_THAT(tokens, ElementsAre(0, 1, 2, 6, 7, 8));
    EXPECT_THAT(targets, ElementsAre(1, 2, 3, 7, 8, 9));
    windows.fill(1, tokens, targets);
    EXPECT_THAT(tokens, ElementsAre(15, 16, 17, 0, 0, 0)) << "there is no fourth";
    EXPECT_THAT(targets, ElementsAre(16, 17, 18, -1, -1, -1));
  }
}

TEST(ShardWindows, TheLastOneMayBeShort) {
  const TempFolder folder;
  const TokenShard shard = make_shard(folder, 6);
  const ShardWindows all(shard, 1, 3, 0);
  ASSERT_EQ(all.batches(), 2u);
  std::vector<int32_t> tokens(3), targets(3);
  all.fill(1, tokens, targets);
  EXPECT_THAT(tokens, ElementsAre(3, 4, 0));
  EXPECT_THAT(targets, ElementsAre(4, 5, -1));
}

}  // namespace
}  // namespace skippipe
