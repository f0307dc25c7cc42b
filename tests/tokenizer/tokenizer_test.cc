#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"
#include "tokenizer/tokenizer_training.h"

namespace skippipe {
namespace {

// Words made of syllables, so that there is something to learn.
std::string make_text(uint64_t seed, int words) {
  static constexpr std::array<const char*, 8> kSyllables = {"ka", "lo", "mi", "ten", "sur", "ba", "\xc3\xa9l", "or"};
  Random random(seed);
  std::string text;
  for (int i = 0; i < words; ++i) {
    for (uint64_t syllables = 1 + random.below(3); syllables > 0; --syllables)
      text += kSyllables[random.below(kSyllables.size())];
    text += i % 12 == 11 ? "\n" : " ";
  }
  return text;
}

std::string train(const std::filesystem::path& file, int32_t vocabulary) {
  TextReader text({file}, {});
  return train_tokenizer(text, {.vocabulary = vocabulary});
}

class TokenizerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const TempFolder folder;
    model_ = new std::string(train(folder.write("text", make_text(1, 5000)), 400));
  }
  static void TearDownTestSuite() { delete std::exchange(model_, nullptr); }

  static inline std::string* model_ = nullptr;
};

TEST_F(TokenizerTest, HasTheVocabularyThatWasAskedFor) {
  const Tokenizer tokenizer(*model_, "m");
  EXPECT_EQ(tokenizer.vocabulary_size(), 400);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
}

TEST_F(TokenizerTest, LearnsPieces) {
  const Tokenizer tokenizer(*model_, "m");
  const std::string text = make_text(2, 1000);
  const auto ids = tokenizer.encode(text);
  EXPECT_LT(ids.size(), text.size() / 2);
  EXPECT_EQ(tokenizer.decode(ids), text);
  for (const int32_t id : ids) ASSERT_TRUE(id >= 0 && id < 400);
}

TEST_F(TokenizerTest, EveryTextComesBack) {
  const Tokenizer tokenizer(*model_, "m");
  for (const std::string& text :
       {std::string(), std::string(" "), std::string("  two  leading, trailing  "),
        std::string("tab\tline\n\n\r\nend\n"), std::string("\0zero\0", 6), std::string("<s></s><unk><0x41>"),
        std::string("\xe6\xbc\xa2\xe5\xad\x97 \xf0\x9f\x98\x80"),
        std::string("\xe2\x96\x81 space marks \xe2\x96\x81\xe2\x96\x81"),
        std::string("\xef\xac\x81 \xc2\xa0 \xe2\x80\x8b e\xcc\x81"), std::string(5000, 'x'),
        std::string("\xef\xbf\xbd")})
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << text;
}

TEST_F(TokenizerTest, RandomCharactersComeBack) {
  const Tokenizer tokenizer(*model_, "m");
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    std::string text;
    for (int i = 0; i < 40; ++i) {
      const auto c = static_cast<uint32_t>(random.below(random.below(4) == 0 ? 0xd800 : 0x250));
      if (c < 0x80) {
        text += static_cast<char>(c);
      } else if (c < 0x800) {
        text += {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
      } else {
        text += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3f)),
                 static_cast<char>(0x80 | (c & 0x3f))};
      }
    }
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << "seed " << seed;
  }
}

TEST_F(TokenizerTest, AppendsToWhatIsThere) {
  const Tokenizer tokenizer(*model_, "m");
  std::vector<int32_t> ids = {1};
  tokenizer.encode("kalo", ids);
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(tokenizer.decode(std::span(ids).subspan(1)), "kalo");
}

TEST_F(TokenizerTest, RefusesForeignIds) {
  const Tokenizer tokenizer(*model_, "tok.model");
  for (const int32_t id : {-1, 400, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()})
    SKP_EXPECT_ERROR(tokenizer.decode(std::vector<int32_t>{5, id}), FileError,
                     fmt::format("tok.model: found token {}, expected 0 to 399", id));
}

TEST_F(TokenizerTest, TheModelDependsOnTheTextAlone) {
  const TempFolder folder;
  const std::string text = make_text(1, 5000);
  EXPECT_TRUE(train(folder.write("same", text), 400) == *model_);
  std::string lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    const size_t size = end == std::string::npos ? text.size() - begin : end - begin;
    lines += "{\"text\": \"" + text.substr(begin, size) + "\"}\n";
    begin += size + 1;
  }
  EXPECT_TRUE(train(folder.write("same.jsonl", lines), 400) == *model_);
  const Tokenizer here(*model_, "m");
  const Tokenizer other(train(folder.write("other", make_text(3, 5000)), 400), "m");
  EXPECT_NE(here.fingerprint(), other.fingerprint());
}

TEST_F(TokenizerTest, SamplesTextThatIsTooLarge) {
  const TempFolder folder;
  const auto path = folder.write("text", make_text(1, 20000));
  const auto train_some = [&](uint64_t seed) {
    TextReader text({path}, {});
    return train_tokenizer(text, {.vocabulary = 300, .seed = seed, .max_bytes = text.total_bytes() / 3});
  };
  const std::string model = train_some(1);
  EXPECT_EQ(Tokenizer(model, "m").vocabulary_size(), 300);
  EXPECT_TRUE(train_some(1) == model);
  EXPECT_TRUE(train_some(2) != model);
}

TEST_F(TokenizerTest, TrainingSaysWhatTheTextAllows) {
  const TempFolder folder;
  const auto tiny = folder.write("tiny", "ka lo mi\n");
  SKP_EXPECT_ERROR(train(tiny, 2000), ConfigError, "the text fills a vocabulary of at most");
  SKP_EXPECT_ERROR(train(tiny, 100), ConfigError, "a vocabulary of 100, expected at least 260");
  SKP_EXPECT_ERROR(train(folder.write("letters", "abcdefghijklmnopqrstuvwxyz\n"), 262), ConfigError,
                   "the text needs a vocabulary of at least");
  SKP_EXPECT_ERROR(train(folder.write("empty", ""), 300), ConfigError, "no text to learn from");
  SKP_EXPECT_ERROR(train(folder.write("blank", "\n\n\n"), 300), ConfigError, "tokenizer: ");
  SKP_EXPECT_ERROR(train(folder.write("bad", "ka\xff\n"), 300), FileError, "bad: byte 2");
}

TEST_F(TokenizerTest, RefusesFilesThatAreNoModels) {
  const TempFolder folder;
  const auto load = [](const std::filesystem::path& path) { Tokenizer tokenizer{path}; };
  SKP_EXPECT_ERROR(load(folder / "none.model"), FileError, "none.model: cannot open");
  SKP_EXPECT_ERROR(load(folder.write("empty.model", "")), FileError, "empty.model: not a SentencePiece model");
  SKP_EXPECT_ERROR(load(folder.write("zip.model", "PK\3\4 and more")), FileError,
                   "zip.model: not a SentencePiece model: found a zip archive");
  SKP_EXPECT_ERROR(load(folder.write("text.model", "some text\n")), FileError, "text.model: not a SentencePiece model");
}

// Truncated or damaged anywhere: an error, or a model that still works within its vocabulary; never a crash.
TEST_F(TokenizerTest, SurvivesDamagedModels) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    std::string damaged = *model_;
    if (seed % 2 == 0) damaged.resize(random.below(damaged.size()));
    for (uint64_t flips = seed % 2 == 0 ? 0 : 1 + random.below(4); flips > 0; --flips)
      damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
    try {
      const Tokenizer tokenizer(damaged, "damaged.model");
      for (const int32_t id : tokenizer.encode("kalo ten \xe6\xbc\xa2\n"))
        ASSERT_TRUE(id >= 0 && id < tokenizer.vocabulary_size()) << "seed " << seed;
    } catch (const FileError& error) {
      EXPECT_NE(std::string(error.what()).find("damaged.model"), std::string::npos) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace skippipe
