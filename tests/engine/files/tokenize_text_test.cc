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
#include "tests/tokenizer/model_writer.h"
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

// A model that puts a space before a text, as Llama 2's, must not put one where the reader happens to cut.
TEST_F(TokenizeTextTest, LongDocumentsHaveTheTokensOfTheWhole) {
  ModelWriter model;
  using Kind = SentencePieceModel::Kind;
  for (const auto& [piece, kind] :
       {std::pair{"<unk>", Kind::kUnknown}, {"<s>", Kind::kControl}, {"</s>", Kind::kControl}})
    model.add_piece(piece, 0, kind);
  for (const char* piece : {"\xe2\x96\x81", "a", "b", "ab",
                            "\xe2\x96\x81"
                            "a",
                            "aa", "\n"})
    model.add_piece(piece, -1, Kind::kNormal);
  model.algorithm = SentencePieceModel::Algorithm::kBytePair;
  model.removes_extra_spaces = false;
  tokenizer_ = std::make_unique<Tokenizer>(model.serialized(), "m");
  const auto line_of = [](size_t bytes) {
    std::string line;
    while (line.size() < bytes) line += "ab  aaab xa";
    return line;
  };
  const auto tokens_of = [](const std::filesystem::path& path) {
    const TokenShard shard(path);
    std::vector<int32_t> tokens(shard.info().tokens);
    shard.read(0, tokens);
    return tokens;
  };
  const std::string lines = "aa\n" + line_of(TextReader::kPieceBytes + 10000) + "\naa\n";
  text_ = folder_.write("long", lines);
  tokenize({.validation_share = 0}, {});
  std::vector<int32_t> expected = tokenizer_->encode(lines);
  expected.push_back(tokenizer_->eos_id());
  EXPECT_TRUE(tokens_of(folder_ / "out/train.tokens") == expected);

  const std::string line = line_of(2 * TextReader::kPieceBytes + 10000);
  text_ = folder_.write("long.jsonl", fmt::format("{{\"text\": \"{}\"}}\n{{\"text\": \"aa\"}}\n", line));
  tokenize({.validation_share = 0, .bos = true}, {});
  expected.clear();
  for (const std::string_view document : {std::string_view(line), std::string_view("aa")}) {
    expected.push_back(tokenizer_->bos_id());
    tokenizer_->encode(document, expected);
    expected.push_back(tokenizer_->eos_id());
  }
  EXPECT_TRUE(tokens_of(folder_ / "out/train.tokens") == expected);
}

TEST_F(TokenizeTextTest, NamesTheDocumentThatItCannotHold) {
  ModelWriter model;
  using Kind = SentencePieceModel::Kind;
  for (const auto& [piece, kind] :
       {std::pair{"<unk>", Kind::kUnknown}, {"</s>", Kind::kControl}, {"a", Kind::kNormal}, {"aa", Kind::kUnused}})
    model.add_piece(piece, 0, kind);
  model.algorithm = SentencePieceModel::Algorithm::kBytePair;
  tokenizer_ = std::make_unique<Tokenizer>(model.serialized(), "unused.model");
  text_ = folder_.write("long", "a\n\n\n" + std::string((8 << 20) + 1, 'a'));
  SKP_EXPECT_ERROR(
      tokenize({.validation_share = 0}, {.separator = ""}), FileError,
      "long:4: the document that begins here: byte 8388609: a document of more than 8388608 bytes, and the "
      "tokenizer has unused pieces");
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
