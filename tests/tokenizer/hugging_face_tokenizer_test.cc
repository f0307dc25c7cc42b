#include "tokenizer/hugging_face_tokenizer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "tests/expect_error.h"
#include "tests/temp_folder.h"
#include "tokenizer/merge_encoder.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_training.h"
#include "tokenizer/utf8.h"

namespace skippipe {
namespace {

using nlohmann::json;

// What Hugging Face's `tokenizers` does with such a tokenizer.json, spelled out slowly.
class Oracle {
 public:
  explicit Oracle(const json& document) : vocabulary_(document["model"]["vocab"]), document_(document) {
    const json& merges = document["model"]["merges"];
    for (size_t rank = 0; rank < merges.size(); ++rank) ranks_.emplace(merges[rank].get<std::string>(), rank);
  }

  std::vector<int32_t> encode(std::string text) const {
    std::vector<std::string> symbols;
    for (const json& normalizer : document_["normalizer"]["normalizers"]) text = normalize(normalizer, text);
    for (size_t begin = 0, end; begin < text.size(); begin = end) {
      for (end = begin + 1; end < text.size() && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80;) ++end;
      const std::string character = text.substr(begin, end - begin);
      if (vocabulary_.contains(character)) {
        symbols.push_back(character);
      } else {
        for (const char byte : character) symbols.push_back(fmt::format("<0x{:02X}>", static_cast<uint8_t>(byte)));
      }
    }
    while (merge_best(symbols)) {
    }
    std::vector<int32_t> ids;
    for (const std::string& symbol : symbols) ids.push_back(vocabulary_.at(symbol).get<int32_t>());
    return ids;
  }

 private:
  static std::string normalize(const json& normalizer, const std::string& text) {
    if (normalizer["type"] == "Prepend") return text.empty() ? text : normalizer["prepend"].get<std::string>() + text;
    std::string result = text;
    const auto pattern = normalizer["pattern"]["String"].get<std::string>(),
               content = normalizer["content"].get<std::string>();
    for (size_t at = 0; (at = result.find(pattern, at)) != std::string::npos; at += content.size())
      result.replace(at, pattern.size(), content);
    return result;
  }

  bool merge_best(std::vector<std::string>& symbols) const {
    size_t best_rank = std::numeric_limits<size_t>::max(), best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = ranks_.find(symbols[i] + " " + symbols[i + 1]);
      if (found == ranks_.end() || found->second >= best_rank) continue;
      best_rank = found->second;
      best = i;
    }
    if (best_rank == std::numeric_limits<size_t>::max()) return false;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    return true;
  }

  const json& vocabulary_;
  const json& document_;
  std::map<std::string, size_t> ranks_;
};

std::string syllables(uint64_t seed, int words) {
  static constexpr std::array<const char*, 9> kSyllables = {"ka", "lo",        "mi", "ten", "sur",
                                                            "aa", "\xc3\xa9l", "or", " "};
  Random random(seed);
  std::string text;
  for (int i = 0; i < words; ++i) {
    for (uint64_t count = 1 + random.below(3); count > 0; --count) text += kSyllables[random.below(kSyllables.size())];
    text += i % 12 == 11 ? "\n" : " ";
  }
  return text;
}

const std::string& trained() {
  static const std::string model = [] {
    const TempFolder folder;
    TextReader text({folder.write("text", syllables(1, 5000))}, {});
    return train_tokenizer(text, {.vocabulary = 400});
  }();
  return model;
}

// A ModelProto of pieces by hand: the special ones, the bytes, then those given.
class HandMade {
 public:
  HandMade& piece(const std::string& text, float score, SentencePieceModel::Kind kind) {
    std::string bits(4, '\0');
    std::memcpy(bits.data(), &score, 4);
    pieces_ += message(1, message(1, text) + "\x15" + bits + "\x18" + static_cast<char>(kind));
    return *this;
  }
  HandMade& normal(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) piece(text, score_ -= 1, SentencePieceModel::Kind::kNormal);
    return *this;
  }
  HandMade& user(const std::string& text) { return piece(text, 0, SentencePieceModel::Kind::kUserDefined); }
  HandMade& adds_space() { return normalizer_ += "\x18\x01", *this; }
  HandMade& space_is_suffix() { return trainer_ += "\xc0\x01\x01", *this; }

  std::string model() const {
    HandMade special;
    special.piece("<unk>", 0, SentencePieceModel::Kind::kUnknown);
    for (const char* text : {"<s>", "</s>"}) special.piece(text, 0, SentencePieceModel::Kind::kControl);
    for (int byte = 0; byte < 256; ++byte)
      special.piece(fmt::format("<0x{:02X}>", byte), 0, SentencePieceModel::Kind::kByte);
    // A byte-pair encoding with bytes; text as it is, no space before it, spaces neither removed nor left as they are.
    return special.pieces_ + pieces_ + message(2, "\x18\x02\x98\x02\x01" + trainer_) +
           message(3, message(1, "identity") + std::string("\x18\x00\x20\x00\x28\x01", 6) + normalizer_);
  }

 private:
  static std::string message(int field, const std::string& bytes) {
    std::string size;
    for (size_t rest = bytes.size(); size.empty() || rest > 0; rest >>= 7)
      size += static_cast<char>((rest & 127) | (rest > 127 ? 128 : 0));
    return static_cast<char>(field << 3 | 2) + size + bytes;
  }

  std::string pieces_, trainer_, normalizer_;
  float score_ = 0;
};

// The last word on a field counts, so one more message of the normalizer's settings (field 3) overrides it.
std::string with_normalizer_field(char number, char value) {
  return trained() + std::string{0x1a, 2, static_cast<char>(number << 3), value};
}

void expect_same_ids(const std::string& model) {
  const json document = json::parse(hugging_face_tokenizer(model, "m").at("tokenizer.json"));
  const Oracle oracle(document);
  const Tokenizer tokenizer(model, "m");
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    std::string text = syllables(seed, 1 + static_cast<int>(random.below(20)));
    static constexpr std::array<const char*, 8> kOthers = {"  ", "aaaa", "1234", "\xe6\xbc\xa2",
                                                           "\t", "\n\n", "Q",    "\xf0\x9f\x98\x80"};
    text.insert(random.below(2) == 0 ? 0 : text.size(), kOthers[random.below(kOthers.size())]);
    ASSERT_EQ(oracle.encode(text), tokenizer.encode(text)) << "seed " << seed << ": " << text;
  }
  EXPECT_TRUE(oracle.encode("").empty());
}

constexpr char kAddsSpace = 3, kRemovesSpaces = 4, kEscapesSpaces = 5;

TEST(HuggingFaceTokenizer, GivesTheSameIds) { expect_same_ids(trained()); }

TEST(HuggingFaceTokenizer, GivesTheSameIdsWhereASpaceIsAdded) {
  const std::string model = with_normalizer_field(kAddsSpace, 1);
  ASSERT_TRUE(parse_sentencepiece_model(model, "m").adds_space);
  expect_same_ids(model);
}

std::vector<int32_t> exported_ids(const std::string& model, const std::string& text) {
  return MergeEncoder(json::parse(hugging_face_tokenizer(model, "m").at("tokenizer.json"))).encode(text);
}

TEST(HuggingFaceTokenizer, CutsOutUserDefinedPieces) {
  const std::string model =
      HandMade().user("<sep>").user("<sep>>").normal({"\xe2\x96\x81", "a", "b", "ab", "ba"}).model();
  const Tokenizer tokenizer(model, "m");
  for (const char* text : {"ab<sep>ab", "<sep>>ba", "a<se<sep>><sep>p>", " <sep> ab ", "<sep><sep>>>"})
    EXPECT_EQ(exported_ids(model, text), tokenizer.encode(text)) << text;
  EXPECT_EQ(exported_ids(model, "<sep>>").size(), 1u);
}

TEST(HuggingFaceTokenizer, TakesTheLeftmostOfOverlappingWaysToMakeAPiece) {
  const std::string model = HandMade().normal({"\xe2\x96\x81", "a", "b", "aa", "aaa", "aaaa", "ab", "aab"}).model();
  const Tokenizer tokenizer(model, "m");
  std::string text;
  for (int i = 0; i < 40; ++i) {
    text += i % 11 == 7 ? "b" : "a";
    ASSERT_EQ(exported_ids(model, text), tokenizer.encode(text)) << text;
  }
}

TEST(HuggingFaceTokenizer, RefusesWhatWouldGetOtherIds) {
  using Kind = SentencePieceModel::Kind;
  const std::string space = "\xe2\x96\x81";
  const auto refused = [](const HandMade& made, const std::string& part) {
    SKP_EXPECT_ERROR(hugging_face_tokenizer(made.model(), "m"), ConfigError, part);
  };
  const auto letters = [&] { return HandMade().normal({space, "a", "b", "c"}); };
  EXPECT_NO_THROW(hugging_face_tokenizer(letters().adds_space().model(), "m"));
  EXPECT_NO_THROW(hugging_face_tokenizer(letters().space_is_suffix().model(), "m"));  // without one to add
  refused(letters().adds_space().space_is_suffix(), "m: it adds a space behind every text: no Hugging Face");
  refused(letters().user("<sep>").adds_space(), "has user-defined pieces, such as \"<sep>\"");
  refused(letters().user(space + "x"), "user-defined piece \"" + space + "x\" has a space");
  refused(letters().user("x y"), "the piece \"x y\" has a space");
  refused(letters().piece("ab", -9, Kind::kNormal).piece("bc", -9, Kind::kNormal),
          "the pieces \"ab\" and \"bc\" have the same score, -9");
  EXPECT_NO_THROW(hugging_face_tokenizer(letters().piece("d", -3, Kind::kNormal).model(), "m"));  // nothing to merge
  refused(letters().piece("ab", std::numeric_limits<float>::quiet_NaN(), Kind::kNormal), "\"ab\" has the score nan");
  refused(letters().piece("<0x41>", -9, Kind::kNormal), "two pieces are \"<0x41>\"");
  refused(letters().piece("ab", -9, Kind::kUnused), "\"ab\" is unused");
}

// What the rules let through is tried: here with files that say something else than the model.
TEST(HuggingFaceTokenizer, ATextWithOtherIdsIsNamed) {
  const std::string model = HandMade().user("<sep>").normal({"\xe2\x96\x81", "a", "b", "c", "ab", "bc"}).model();
  const json good = json::parse(hugging_face_tokenizer(model, "m").at("tokenizer.json"));
  EXPECT_NO_THROW(require_same_ids(model, good.dump(), "m"));
  json swapped = good;
  ASSERT_EQ(swapped["model"]["merges"].size(), 2u);
  std::swap(swapped["model"]["merges"][0], swapped["model"]["merges"][1]);
  SKP_EXPECT_ERROR(require_same_ids(model, swapped.dump(), "m"), ConfigError,
                   "m: in the text \"abcabcabcabcab\", as piece 1 SentencePiece has \"ab\", tokenizer.json has \"a\"");
  json prefixed = good;
  prefixed["normalizer"]["normalizers"].push_back({{"type", "Prepend"}, {"prepend", "\xe2\x96\x81"}});
  SKP_EXPECT_ERROR(require_same_ids(model, prefixed.dump(), "m"), ConfigError, "in the text");
  json uncut = good;
  uncut["added_tokens"].erase(3);
  SKP_EXPECT_ERROR(require_same_ids(model, uncut.dump(), "m"), ConfigError, "<sep>");
}

TEST(MergeEncoder, DoesWhatTheOracleDoes) {
  const std::string model =
      HandMade().user("<sep>").normal({"\xe2\x96\x81", "a", "b", "ab", "bab", "abab", "ba"}).model();
  const json document = json::parse(hugging_face_tokenizer(model, "m").at("tokenizer.json"));
  const MergeEncoder encoder(document);
  const Oracle oracle(document);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    std::string text;
    for (uint64_t size = random.below(30); size > 0; --size)
      text += std::array{"a", "b", " ", "\n", "x", "\xc3\xa9"}[random.below(6)];
    ASSERT_EQ(encoder.encode(text), oracle.encode(text)) << text;
  }
}

TEST(HuggingFaceTokenizer, NamesItsSpecialTokens) {
  const auto files = hugging_face_tokenizer(trained(), "m");
  EXPECT_EQ(files.size(), 4u);
  EXPECT_EQ(files.at("tokenizer.model"), trained());
  const json special = json::parse(files.at("special_tokens_map.json"));
  EXPECT_EQ(special, (json{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}}));
  const json config = json::parse(files.at("tokenizer_config.json"));
  EXPECT_EQ(config["eos_token"], "</s>");
  EXPECT_EQ(config["add_bos_token"], false);
  const json added = json::parse(files.at("tokenizer.json"))["added_tokens"];
  ASSERT_EQ(added.size(), 3u);
  EXPECT_EQ(added[2]["content"], "</s>");
  EXPECT_EQ(added[2]["id"], 2);
}

TEST(HuggingFaceTokenizer, RefusesWhatItCannotExpress) {
  SKP_EXPECT_ERROR(hugging_face_tokenizer(with_normalizer_field(kRemovesSpaces, 1), "m"), ConfigError,
                   "m: it removes extra spaces");
  SKP_EXPECT_ERROR(hugging_face_tokenizer(with_normalizer_field(kEscapesSpaces, 0), "m"), ConfigError, "mark spaces");
  SKP_EXPECT_ERROR(hugging_face_tokenizer("", "m"), FileError, "m: not a SentencePiece model: it has no pieces");
}

TEST(SentencePieceModel, ReadsWhatTheLibraryReads) {
  const SentencePieceModel model = parse_sentencepiece_model(trained(), "m");
  EXPECT_EQ(model.pieces.size(), 400u);
  EXPECT_EQ(model.algorithm, SentencePieceModel::Algorithm::kBytePair);
  EXPECT_EQ(model.pieces[0].kind, SentencePieceModel::Kind::kUnknown);
  EXPECT_EQ(model.pieces[2].text, "</s>");
  EXPECT_EQ(model.pieces[3].text, "<0x00>");
  EXPECT_EQ(model.pieces[3].kind, SentencePieceModel::Kind::kByte);
  EXPECT_FALSE(model.adds_space);
  EXPECT_FALSE(model.removes_extra_spaces);
  EXPECT_TRUE(model.escapes_spaces);
}

TEST(SentencePieceModel, SurvivesDamage) {
  const std::string good = trained();
  const auto parse = [](const std::string& bytes) {
    try {
      parse_sentencepiece_model(bytes, "m");
    } catch (const FileError&) {
    }
  };
  for (size_t size = 0; size < good.size(); size += 7) parse(good.substr(0, size));
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Random random(seed);
    std::string damaged = good;
    for (int flips = 0; flips < 3; ++flips)
      damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
    parse(damaged);
  }
  SKP_EXPECT_ERROR(parse_sentencepiece_model("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "m"), FileError,
                   "ends within");
  SKP_EXPECT_ERROR(parse_sentencepiece_model(std::string(11, '\xff'), "m"), FileError, "longer than 64 bits");
  SKP_EXPECT_ERROR(parse_sentencepiece_model("\x0b", "m"), FileError, "wire type 3");
  SKP_EXPECT_ERROR(parse_sentencepiece_model("\x08\x01", "m"), FileError, "field 1 is of wire type 0");
}

}  // namespace
}  // namespace skippipe
