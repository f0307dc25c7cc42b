#include "engine/files/tokenize_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"
#include "tokenizer/tokenizer_training.h"

namespace skippipe {
namespace {

class TokenizeTextTest : public ::testing::Test {
 protected:
  TokenizeTextTest() {
    std::string text;
    for (int i = 0; i < 200; ++i) text += fmt::format("document number {} speaks of numbers\n", i);
    text_ = folder_.write("text", text);
    TextReader reader({text_}, {});
    tokenizer_ = std::make_unique<Tokenizer>(train_tokenizer(reader, {.vocabulary = 300}), "m");
  }

  TokenizedText tokenize(const TokenizeOptions& options, const DocumentRules& rules = {.separator = {}, .lines = 1}) {
    TextReader reader({text_}, rules);
    return tokenize_text(folder_ / "out", *tokenizer_, reader, options);
  }
  // The documents of a shard as text, without the special tokens.
  std::vector<std::string> documents(std::string_view name, bool bos = false) const {
    const TokenShard shard(folder_ / "out" / name);
    std::vector<std::string> result;
    for (uint64_t i = 0; i < shard.info().documents; ++i) {
      const uint64_t begin = shard.document_begin(i);
      const uint64_t end = i + 1 < shard.info().documents ? shard.document_begin(i + 1) : shard.info().tokens;
      std::vector<int32_t> tokens(end - begin);
      shard.read(begin, tokens);
      EXPECT_EQ(tokens.back(), tokenizer_->eos_id());
      EXPECT_EQ(tokens.front() == tokenizer_->bos_id(), bos);
      result.push_back(tokenizer_->decode(std::span(tokens).subspan(bos ? 1 : 0, tokens.size() - (bos ? 2 : 1))));
    }
    return result;
  }

  const TempFolder folder_;
  std::filesystem::path text_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(TokenizeTextTest, EveryDocumentGoesToOneShardInOrder) {
  const TokenizedText result = tokenize({.validation_share = 0.2, .seed = 3});
  const auto train = documents(kTrainShard);
  const auto validation = documents(kValidationShard);
  EXPECT_EQ(result.train.documents, train.size());
  ASSERT_TRUE(result.validation);
  EXPECT_EQ(result.validation->documents, validation.size());
  EXPECT_EQ(result.train.tokenizer_fingerprint, tokenizer_->fingerprint());
  EXPECT_NEAR(static_cast<double>(validation.size()), 40, 24);  // over 4 standard deviations
  std::vector<std::string> merged;
  size_t t = 0;
  size_t v = 0;
  for (int i = 0; i < 200; ++i) {
    const std::string expected = fmt::format("document number {} speaks of numbers\n", i);
    if (t < train.size() && train[t] == expected) {
      ++t;
    } else {
      ASSERT_TRUE(v < validation.size() && validation[v] == expected) << i;
      ++v;
    }
  }
  EXPECT_EQ(t + v, 200u);
}

TEST_F(TokenizeTextTest, TheSplitIsAFunctionOfTheSeed) {
  tokenize({.validation_share = 0.2, .seed = 3});
  const auto first = documents(kValidationShard);
  tokenize({.validation_share = 0.2, .seed = 4});
  EXPECT_NE(documents(kValidationShard), first);
  tokenize({.validation_share = 0.2, .seed = 3});
  EXPECT_EQ(documents(kValidationShard), first);
}

TEST_F(TokenizeTextTest, PutsBosWhereAsked) {
  tokenize({.validation_share = 0.2, .bos = true});
  EXPECT_EQ(documents(kTrainShard, true).size() + documents(kValidationShard, true).size(), 200u);
}

TEST_F(TokenizeTextTest, WithoutAShareThereIsNoValidation) {
  EXPECT_FALSE(tokenize({.validation_share = 0}, {}).validation);
  EXPECT_EQ(documents(kTrainShard), std::vector<std::string>{read_file(text_)});
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out" / kValidationShard));
}

TEST_F(TokenizeTextTest, AnEmptyShardIsAnErrorThatLosesNothing) {
  tokenize({.validation_share = 0.2});
  const auto before = documents(kTrainShard);
  SKP_EXPECT_ERROR(tokenize({.validation_share = 0.5}, {}), ConfigError, "split the text into more documents");
  text_ = folder_.write("bad", "document\nnumber\n\xff\n");
  SKP_EXPECT_ERROR(tokenize({.validation_share = 0.5}), FileError, "bad: byte 16");
  text_ = folder_.write("empty", "");
  SKP_EXPECT_ERROR(tokenize({.validation_share = 0}), ConfigError, "no text");
  EXPECT_EQ(documents(kTrainShard), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_ / "out"), {}), 2);
}

}  // namespace
}  // namespace skippipe
