#include "engine/inference/text_marks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"
#include "tokenizer/tokenizer_training.h"

namespace skippipe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int32_t kPieces = 264;

// A folder of a model with 8 rows more than its tokenizer has pieces.
class TextMarksTest : public ::testing::Test {
 protected:
  TextMarksTest() : tokenizer_(trained(folder_), "m") { config_.vocabulary = kPieces + 8; }

  static std::string trained(const TempFolder& folder) {
    TextReader text({folder.write("text", "ab ab abc abc abcd\nab ab abd ad cd cd\n")}, {});
    return train_tokenizer(text, {.vocabulary = kPieces});
  }
  TextMarks read() const { return read_text_marks(folder_.path(), config_, tokenizer_, folder_.path()); }
  void write_json(const std::string& name, const std::string& content) const { folder_.write(name, content); }

  const TempFolder folder_;
  const Tokenizer tokenizer_;
  ModelConfig config_;
};

TEST_F(TextMarksTest, WithoutFilesTheTokenizerAndTheConfigurationSpeak) {
  TextMarks marks = read();
  EXPECT_THAT(marks.ends, ElementsAre(2));
  EXPECT_EQ(marks.begin, 1);
  EXPECT_FALSE(marks.begins_text);
  EXPECT_THAT(marks.added, IsEmpty());
  config_.eos_token_ids = {kPieces + 1, 5, 5};
  marks = read();
  EXPECT_THAT(marks.ends, ElementsAre(5, kPieces + 1));
  EXPECT_THAT(marks.ignored, IsEmpty());
}

TEST_F(TextMarksTest, TheGenerationSettingsWin) {
  config_.eos_token_ids = {5};
  write_json("generation_config.json", R"({"eos_token_id": [7, 265, 6], "temperature": 0.6})");
  EXPECT_THAT(read().ends, ElementsAre(6, 7, 265));
  write_json("generation_config.json", R"({"eos_token_id": 9})");
  EXPECT_THAT(read().ends, ElementsAre(9));
  for (const char* silent : {R"({"eos_token_id": null})", R"({"eos_token_id": -1})", R"({"eos_token_id": []})", "{}"}) {
    write_json("generation_config.json", silent);
    EXPECT_THAT(read().ends, ElementsAre(5)) << silent;
  }
}

TEST_F(TextMarksTest, IdsThatTheModelLacksAreIgnoredWithAWord) {
  config_.eos_token_ids = {128001, 6};
  write_json("generation_config.json", R"({"eos_token_id": [272, 271]})");
  TextMarks marks = read();
  EXPECT_THAT(marks.ends, ElementsAre(271));
  ASSERT_EQ(marks.ignored.size(), 1u);
  EXPECT_THAT(
      marks.ignored[0],
      HasSubstr("generation_config.json: eos_token_id[0]: 272 is no token of the model, whose vocab_size is 272"));
  write_json("generation_config.json", R"({"eos_token_id": 300})");
  marks = read();
  EXPECT_THAT(marks.ends, ElementsAre(6));
  EXPECT_THAT(marks.ignored, ElementsAre(HasSubstr("300"), HasSubstr("config.json: eos_token_id: 128001")));
  config_.eos_token_ids = {128001};
  EXPECT_THAT(read().ends, ElementsAre(2));
}

TEST_F(TextMarksTest, AddedTokensComeFromEachOfTheFiles) {
  write_json("added_tokens.json", R"({"<a>": 264, "<b>": 265, "<far>": 272, "</s>": 2})");
  write_json("tokenizer.json", R"({"added_tokens": [{"id": 265, "content": "<b>", "special": true},
                                                    {"id": 266, "content": "<c>", "special": false}]})");
  write_json("tokenizer_config.json", R"({"added_tokens_decoder": {"2": {"content": "</s>", "special": true},
      "267": {"content": "<d>", "special": true}}, "add_bos_token": true, "bos_token": {"content": "<a>"},
      "eos_token": "<d>"})");
  const TextMarks marks = read();
  EXPECT_EQ(marks.added, (std::map<int32_t, std::string>{{264, "<a>"}, {265, ""}, {266, "<c>"}, {267, ""}}));
  EXPECT_EQ(marks.begin, 264);
  EXPECT_TRUE(marks.begins_text);
  EXPECT_THAT(marks.ends, ElementsAre(267));
  EXPECT_THAT(marks.ignored, ElementsAre(HasSubstr("added_tokens.json: <far>: 272 is no token")));
  // Another tokenizer than the model's: its files say nothing.
  const TextMarks other = read_text_marks(folder_.path(), config_, tokenizer_, {});
  EXPECT_THAT(other.added, IsEmpty());
  EXPECT_EQ(other.begin, 1);
  EXPECT_FALSE(other.begins_text);
  EXPECT_THAT(other.ends, ElementsAre(2));
}

TEST_F(TextMarksTest, WrongFilesAreNamed) {
  const auto refused = [&](const char* name, const char* content, const char* part) {
    write_json(name, content);
    SKP_EXPECT_ERROR(read(), FileError, part);
    std::filesystem::remove(folder_ / name);
  };
  refused("generation_config.json", R"({"eos_token_id": "2"})", "generation_config.json: eos_token_id: found \"2\"");
  refused("generation_config.json", R"({"eos_token_id": [[2]]})", "eos_token_id[0]: found an array");
  refused("generation_config.json", R"({"eos_token_id": 99999999999})", "eos_token_id: found 99999999999");
  refused("generation_config.json", "{", "generation_config.json");
  refused("added_tokens.json", R"({"<a>": -1})", "added_tokens.json: <a>");
  refused("added_tokens.json", "[]", "an object");
  refused("tokenizer_config.json", R"({"add_bos_token": 1})", "add_bos_token");
  refused("tokenizer_config.json", R"({"bos_token": 1})", "bos_token: found 1, expected a string");
  refused("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "y"}}})", "the number of a token");
  refused("tokenizer.json", R"({"added_tokens": [{"id": 300}]})", "content");
}

}  // namespace
}  // namespace skippipe
