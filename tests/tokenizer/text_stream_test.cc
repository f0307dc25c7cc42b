#include "tokenizer/text_stream.h"

#include <gtest/gtest.h>

#include <array>

#include "base/error.h"
#include "base/random.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"
#include "tokenizer/tokenizer_training.h"
#include "tokenizer/utf8.h"

namespace skippipe {
namespace {

constexpr int32_t kVocabulary = 330;

// Replaces fields of a serialized ModelProto's normalizer_spec: what a message holds twice counts as it stands last.
std::string with_spaces(const std::string& model, bool add_dummy_prefix, bool remove_extra_whitespaces) {
  const std::string fields = {0x18, static_cast<char>(add_dummy_prefix), 0x20,
                              static_cast<char>(remove_extra_whitespaces)};
  return model + std::string({0x1a, static_cast<char>(fields.size())}) + fields;
}

// Our own models put no space before a text, Llama's do, others also drop spaces.
class TextStreamTest : public ::testing::TestWithParam<std::array<bool, 2>> {
 protected:
  static void SetUpTestSuite() {
    const TempFolder folder;
    std::string text;
    Random random(1);
    for (int i = 0; i < 4000; ++i) {
      text += std::array{"ka", "lo", "mi", "ten ", " sur", "\xc3\xa9l", "or\n", " ", "\xe6\xbc\xa2"}[random.below(9)];
    }
    TextReader reader({folder.write("text", text)}, {});
    model_ = new std::string(train_tokenizer(reader, {.vocabulary = kVocabulary}));
  }
  static void TearDownTestSuite() { delete std::exchange(model_, nullptr); }

  const Tokenizer tokenizer_{with_spaces(*model_, GetParam()[0], GetParam()[1]), "m"};
  static inline std::string* model_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Spaces, TextStreamTest,
                         ::testing::Values(std::array{false, false}, std::array{true, false}, std::array{true, true}));

TEST_P(TextStreamTest, PiecesOfTextAddUp) {
  const std::string prompt = "ka lo", rest = " mi  ten\n\n\xc3\xa9l \xf0\x9f\x98\x80\xe6\xbc\xa2  or   ";
  const auto before = tokenizer_.encode(prompt);
  auto all = before;
  tokenizer_.encode(rest, all);
  TextStream stream(tokenizer_, before);
  std::string text;
  for (size_t i = before.size(); i < all.size(); ++i) text += stream.add(all[i]);
  text += stream.finish();
  EXPECT_EQ(tokenizer_.decode(before) + text, tokenizer_.decode(all));
  if (!GetParam()[0]) {
    EXPECT_EQ(text, rest);
  }
}

// What a model without sense may say: halves of characters, spaces in any number, special tokens.
TEST_P(TextStreamTest, PiecesOfAnyTokensAddUp) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Random random(seed);
    std::vector<int32_t> all;
    if (random.below(2) == 0) all.push_back(tokenizer_.bos_id());
    if (random.below(2) == 0) tokenizer_.encode("ka lo", all);
    TextStream stream(tokenizer_, all);
    const std::string before = tokenizer_.decode(all);
    std::string text;
    for (int i = 0; i < 40; ++i) {
      // Half of them bytes, many of which begin or continue a character.
      const auto token =
          static_cast<int32_t>(random.below(2) == 0 ? 3 + 0x80 + random.below(0x80) : random.below(kVocabulary));
      all.push_back(token);
      const std::string piece = stream.add(token);
      ASSERT_EQ(valid_utf8_prefix(piece), piece.size()) << "seed " << seed;
      text += piece;
    }
    text += stream.finish();
    ASSERT_EQ(before + text, tokenizer_.decode(all)) << "seed " << seed;
  }
}

// Nothing but the bytes of an incomplete character is held back.
TEST_P(TextStreamTest, ComesAsSoonAsItIsKnown) {
  const std::vector<int32_t> start = tokenizer_.encode("ka");
  TextStream stream(tokenizer_, start);
  const auto byte = [](int value) { return 3 + value; };
  EXPECT_EQ(tokenizer_.byte_of(byte(0xf0)), 0xf0);
  EXPECT_EQ(stream.add(byte(0xf0)), "");
  EXPECT_EQ(stream.add(byte(0x9f)), "");
  EXPECT_EQ(stream.add(byte(0x98)), "");
  EXPECT_EQ(stream.add(byte(0x80)), "\xf0\x9f\x98\x80");
  EXPECT_EQ(stream.add(byte(0x80)), "\xef\xbf\xbd");  // continues nothing
  EXPECT_EQ(stream.add(byte(0xe6)), "");
  EXPECT_EQ(stream.add(byte('x')), "\xef\xbf\xbdx");
  EXPECT_EQ(stream.add(byte(0xe6)), "");
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd");
  SKP_EXPECT_ERROR(stream.add(kVocabulary), FileError, "found token 330, expected 0 to 329");
}

}  // namespace
}  // namespace skippipe
