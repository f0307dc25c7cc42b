#include "tokenizer/text_normalizer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "tests/expect_error.h"
#include "tests/tokenizer/train_sentencepiece.h"

namespace skippipe {
namespace {

std::string normalize(const SentencePieceModel& model, const std::vector<std::string>& user_defined,
                      const std::vector<std::string_view>& parts) {
  std::vector<std::pair<std::string, int32_t>> entries;
  for (const std::string& piece : user_defined) entries.emplace_back(piece, 0);
  const ByteTrie trie(entries);
  TextNormalizer normalizer(model, trie, "some.model");
  std::string normalized;
  for (const std::string_view part : parts) normalizer.add(part, normalized);
  normalizer.finish(normalized);
  return normalized;
}

// SentencePiece on whole texts is the oracle of document_encoder_test.cc; here is what its rules are.
TEST(TextNormalizer, KeepsOrRemovesSpaces) {
  SentencePieceModel model;
  EXPECT_EQ(normalize(model, {}, {"  a ", "  b", " "}),
            "\xe2\x96\x81"
            "a\xe2\x96\x81"
            "b");
  EXPECT_EQ(normalize(model, {}, {"  ", " "}), "");
  EXPECT_EQ(normalize(model, {}, {}), "");
  model.removes_extra_spaces = false;
  model.escapes_spaces = false;
  EXPECT_EQ(normalize(model, {}, {" a ", " "}), "  a  ");
  model.space_is_suffix = true;
  EXPECT_EQ(normalize(model, {}, {"a", "b"}), "ab ");
  model.adds_space = false;
  EXPECT_EQ(normalize(model, {}, {"a", "b"}), "ab");
}

TEST(TextNormalizer, RulesAndUserDefinedPiecesSpanParts) {
  SentencePieceModel model;
  model.adds_space = false;
  model.character_map = nfkc_table();
  EXPECT_EQ(normalize(model, {}, {"e", "\xcc\x81", "\xef\xac\x81"}),
            "\xc3\xa9"
            "fi");
  EXPECT_EQ(normalize(model, {"e\xcc\x81!"}, {"e", "\xcc\x81", "!"}), "e\xcc\x81!");
  EXPECT_EQ(normalize(model, {"e\xcc\x81!"}, {"e", "\xcc\x81", "?"}), "\xc3\xa9?");
}

TEST(TextNormalizer, RefusesBrokenTables) {
  SentencePieceModel model;
  for (const std::string& table : {std::string("abc"), std::string(4, '\xff'), std::string("\x10\0\0\0xx", 6),
                                   std::string(5, '\0'), std::string("\4\0\0\0\0\0\0\0x", 9)}) {
    model.character_map = table;
    SKP_EXPECT_ERROR(normalize(model, {}, {"a"}), FileError,
                     "some.model: its table of normalized characters is broken");
  }
}

// A table with a rule for "a" alone.
std::string table_for_a(const std::string& replacement) {
  std::vector<uint32_t> units(0x200);           // whole blocks of 256, so that no byte leads outside
  units[0] = 0x100 << 10;                       // the children of the root lie around 0x100
  units[0x100 ^ 'a'] = 1 << 10 | 1 << 8 | 'a';  // a key ends here; its value lies in the unit beside it
  std::string table(4 + 4 * units.size(), '\0');
  const auto bytes = static_cast<uint32_t>(4 * units.size());
  std::memcpy(table.data(), &bytes, 4);
  std::memcpy(table.data() + 4, units.data(), bytes);
  return table + replacement + '\0';
}

TEST(TextNormalizer, RefusesReplacementsThatAreTraps) {
  SentencePieceModel model;
  model.adds_space = false;
  model.character_map = table_for_a("bc");
  EXPECT_EQ(normalize(model, {}, {"xaax"}), "xbcbcx");
  model.character_map = table_for_a(std::string(5000, 'b'));
  SKP_EXPECT_ERROR(normalize(model, {}, {"a"}), FileError, "its table of normalized characters is broken");
  model.character_map = table_for_a("\xff");
  SKP_EXPECT_ERROR(normalize(model, {}, {"a"}), FileError, "its table of normalized characters is broken");
}

TEST(TextNormalizer, SurvivesDamagedTables) {
  SentencePieceModel model;
  size_t broken = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    model.character_map = nfkc_table();
    for (uint64_t flips = 1 + random.below(20000); flips > 0; --flips)
      model.character_map[random.below(model.character_map.size())] = static_cast<char>(random.below(256));
    std::string text;
    for (int i = 0; i < 300; ++i) text += i % 3 == 0 ? "e\xcc\x81" : i % 3 == 1 ? "\xef\xac\x81" : "\xef\xbc\xa1 ";
    try {
      normalize(model, {}, {text});
    } catch (const FileError& error) {
      EXPECT_STREQ(error.what(), "some.model: its table of normalized characters is broken");
      ++broken;
    }
  }
  EXPECT_GT(broken, 10u);
}

}  // namespace
}  // namespace skippipe
