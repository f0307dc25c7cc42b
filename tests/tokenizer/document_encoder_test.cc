#include "tokenizer/document_encoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "tests/expect_error.h"
#include "tests/tokenizer/model_writer.h"
#include "tests/tokenizer/train_sentencepiece.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace skippipe {
namespace {

using Algorithm = SentencePieceModel::Algorithm;
using Kind = SentencePieceModel::Kind;

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";

// The tokens of a text that comes in random parts. Counts those that came before the end.
std::vector<int32_t> encode_in_parts(const Tokenizer& tokenizer, DocumentEncoder& encoder, std::string_view text,
                                     Random& random, size_t& early) {
  std::vector<int32_t> ids;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, utf8_boundary(text.substr(0, 4 + random.below(12))));
    encoder.add(part, ids);
    text.remove_prefix(part.size());
  }
  early += ids.size();
  encoder.finish(ids);
  for (const int32_t id : ids) EXPECT_LT(id, tokenizer.vocabulary_size());
  return ids;
}

// Holds what the encoder makes of texts in small parts against SentencePiece on the whole of each.
class Comparison {
 public:
  explicit Comparison(const std::string& model, uint64_t seed = 0)
      : tokenizer_(model, "m"), seed_(seed), random_(seed, {1}) {
    for (const size_t part : {1, 2, 7, 4096})
      encoders_.push_back(std::make_unique<DocumentEncoder>(tokenizer_, limits(part)));
  }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  size_t early() const { return early_; }

  void check(const std::string& text) {
    const std::vector<int32_t> expected = tokenizer_.encode(text);
    for (const auto& encoder : encoders_)
      ASSERT_EQ(encode_in_parts(tokenizer_, *encoder, text, random_, early_), expected)
          << "seed " << seed_ << ", text '" << text << "'";
  }

 private:
  static DocumentEncoder::Limits limits(size_t part) {
    DocumentEncoder::Limits limits;
    limits.part = part;
    return limits;
  }
  const Tokenizer tokenizer_;
  std::vector<std::unique_ptr<DocumentEncoder>> encoders_;
  uint64_t seed_;
  Random random_;
  size_t early_ = 0;
};

template <typename List>
auto pick(const List& list, Random& random) {
  return list[random.below(std::size(list))];
}

// Words of few syllables and what else is in texts: runs of spaces, characters that NFKC changes, joins or drops,
// characters that no model knows, the space mark itself.
std::string make_text(Random& random, int words) {
  static constexpr std::array<std::string_view, 10> kSyllables = {"ka", "lo",        "mi", "ten",  "su",
                                                                  "ba", "\xc3\xa9l", "or", "kaka", "aa"};
  static constexpr std::array<std::string_view, 16> kOthers = {"\xef\xac\x81",
                                                               "e\xcc\x81",
                                                               "\xef\xbc\xa1",
                                                               "\xe3\x80\x80",
                                                               "\xc2\xa0",
                                                               "\xe2\x80\x8b",
                                                               "\t",
                                                               "\r\n",
                                                               "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8",
                                                               "\xf0\x9f\x98\x80",
                                                               "\xe6\xbc\xa2",
                                                               "\xe2\x96\x81",
                                                               "<s>",
                                                               "<unk>",
                                                               "<0x41>",
                                                               std::string_view("\0", 1)};
  std::string text;
  for (int i = 0; i < words; ++i) {
    if (random.below(8) == 0)
      for (uint64_t n = 1 + random.below(3); n > 0; --n) text += pick(kOthers, random);
    for (uint64_t n = random.below(12) == 0 ? 15 : 1 + random.below(3); n > 0; --n) text += pick(kSyllables, random);
    text += i % 12 == 11 ? "\n" : std::string(random.below(6) == 0 ? random.below(9) : 1, ' ');
  }
  return text;
}

TEST(DocumentEncoder, CutsAsTrainedModelsCutTheWhole) {
  Random random(7);
  const std::string training = make_text(random, 2000);
  uint64_t seed = 0;
  for (const char* type : {"bpe", "unigram", "char", "word"})
    for (const char* rule : {"identity", "nmt_nfkc"})
      for (const int variant : {0, 1, 2, 3, 4}) {
        Comparison comparison(
            train_sentencepiece(training, {{"model_type", type},
                                           {"vocab_size", "400"},
                                           {"normalization_rule_name", rule},
                                           {"character_coverage", "0.99"},
                                           {"byte_fallback", variant == 1 || variant == 3 ? "true" : "false"},
                                           {"add_dummy_prefix", variant == 3 ? "false" : "true"},
                                           {"remove_extra_whitespaces", variant == 0 ? "true" : "false"},
                                           {"treat_whitespace_as_suffix", variant == 2 ? "true" : "false"},
                                           {"allow_whitespace_only_pieces", variant == 0 ? "false" : "true"},
                                           {"split_by_whitespace", variant == 4 ? "false" : "true"},
                                           {"user_defined_symbols", variant == 4 ? "" : "kamika,kami,o t,<u>"}}),
            ++seed);
        for (int i = 0; i < 3; ++i)
          ASSERT_NO_FATAL_FAILURE(comparison.check(make_text(random, 100))) << type << rule << variant;
        for (const std::string& text :
             {std::string(), std::string(" "), std::string(999, ' '), std::string(999, 'a'), std::string("  kalo  "),
              std::string(300, '\n'), std::string("kami\xe2\x96\x81"), std::string("kamikam")})
          ASSERT_NO_FATAL_FAILURE(comparison.check(text)) << type << rule << variant;
        EXPECT_GT(comparison.early(), 300u) << type << rule << variant;
      }
}

// Models that no trainer would make: scores in any order and often equal, pieces of any characters.
std::string random_model(Random& random, Algorithm algorithm) {
  static constexpr std::array<std::string_view, 7> kAlphabet = {
      "a", "b", "c", kSpaceMark, "\xc3\xa9", "\xe6\xbc\xa2", "\xf0\x9f\x98\x80"};
  ModelWriter model;
  model.add_piece("<unk>", 0, Kind::kUnknown);
  std::vector<std::string> pieces;
  const auto add = [&](const std::string& text, Kind kind) {
    if (std::ranges::find(pieces, text) != pieces.end()) return;
    const auto score = random.below(3) == 0 ? static_cast<float>(-1.7 * random.uniform())
                                            : -0.25f * static_cast<float>(random.below(8));
    model.add_piece(text, score, kind);
    pieces.push_back(text);
  };
  for (const std::string_view character : kAlphabet)
    if (random.below(7) != 0) add(std::string(character), Kind::kNormal);
  add("a", Kind::kNormal);
  for (uint64_t n = random.below(4) == 0 ? 1 + random.below(3) : 0; n > 0; --n)
    add(pick(pieces, random) + std::string(pick(kAlphabet, random)) + pick(pieces, random), Kind::kUserDefined);
  const bool has_unused = algorithm == Algorithm::kUnigram && random.below(3) == 0;
  for (uint64_t n = 3 + random.below(25); n > 0; --n) {
    const std::string text =
        pick(pieces, random) + (random.below(5) == 0 ? std::string(pick(kAlphabet, random)) : pick(pieces, random));
    if (text.size() < 40) add(text, has_unused && random.below(5) == 0 ? Kind::kUnused : Kind::kNormal);
  }
  model.algorithm = algorithm;
  model.spells_unknown = random.below(2) == 0;
  if (model.spells_unknown)
    for (int byte = 0; byte < 256; ++byte) model.add_piece(fmt::format("<0x{:02X}>", byte), 0, Kind::kByte);
  model.adds_space = random.below(2) == 0;
  model.space_is_suffix = random.below(3) == 0;
  model.removes_extra_spaces = random.below(2) == 0;
  model.escapes_spaces = random.below(6) != 0;
  if (random.below(3) == 0) model.character_map = nfkc_table();
  return model.serialized();
}

std::string random_text(Random& random) {
  static constexpr std::array<std::string_view, 12> kCharacters = {"a",
                                                                   "b",
                                                                   "c",
                                                                   " ",
                                                                   "\xc3\xa9",
                                                                   "\xe6\xbc\xa2",
                                                                   "\xf0\x9f\x98\x80",
                                                                   "x",
                                                                   "\xe2\x96\x81",
                                                                   "\xef\xac\x81",
                                                                   "\xef\xbd\x81",
                                                                   "\xe3\x80\x80"};
  std::string text;
  const uint64_t kinds = 1 + random.below(kCharacters.size());
  for (uint64_t n = random.below(120); n > 0; --n) {
    const std::string_view character = kCharacters[random.below(kinds)];
    for (uint64_t run = random.below(10) == 0 ? 1 + random.below(20) : 1; run > 0; --run) text += character;
  }
  return text;
}

TEST(DocumentEncoder, CutsAsRandomModelsCutTheWhole) {
  size_t early = 0;
  for (uint64_t seed = 0; seed < 240; ++seed) {
    Random random(seed);
    const Algorithm algorithm = seed % 8 == 7   ? Algorithm::kWord
                                : seed % 8 == 3 ? Algorithm::kCharacter
                                : seed % 2 == 0 ? Algorithm::kBytePair
                                                : Algorithm::kUnigram;
    Comparison comparison(random_model(random, algorithm), seed);
    for (int i = 0; i < 6; ++i) ASSERT_NO_FATAL_FAILURE(comparison.check(random_text(random)));
    early += comparison.early();
  }
  EXPECT_GT(early, 100000u);
}

// Sums of scores round, more so the longer the text is: what the whole's sums prefer is what comes out.
TEST(DocumentEncoder, RoundsAsTheWholeDoes) {
  ModelWriter model;
  model.add_piece("<unk>", 0, Kind::kUnknown);
  for (const auto& [text, score] :
       {std::pair{"a", -5.3f}, {"b", -6.1f}, {"ab", -8.0001f}, {"ba", -8.0f}, {"aba", -13.3f}, {"bab", -14.1001f}})
    model.add_piece(text, score, Kind::kNormal);
  model.adds_space = false;
  model.removes_extra_spaces = false;
  Comparison comparison(model.serialized());
  Random random(1);
  std::string text;
  while (text.size() < 400000) text += random.below(2) == 0 ? "ab" : "aab";
  comparison.check(text);
  // The same text behind another one is cut otherwise: a cut of parts by themselves would show.
  const std::string end = text.substr(text.size() - 3000);
  const auto whole = comparison.tokenizer().encode(text), alone = comparison.tokenizer().encode(end);
  EXPECT_FALSE(
      std::ranges::equal(std::vector(whole.end() - 1000, whole.end()), std::vector(alone.end() - 1000, alone.end())));
}

DocumentEncoder::Limits small_limits() { return {.part = 4, .undecided_characters = 1000, .whole_bytes = 50}; }

TEST(DocumentEncoder, RefusesWhatItCannotHold) {
  const auto model_of = [](Algorithm algorithm, Kind kind) {
    ModelWriter model;
    model.add_piece("<unk>", 0, Kind::kUnknown);
    model.add_piece("a", -4, Kind::kNormal);
    model.add_piece("aa", -5, kind);
    model.add_piece("aaa", -5.5, Kind::kNormal);
    model.algorithm = algorithm;
    model.removes_extra_spaces = false;
    return model.serialized();
  };
  const std::string text(2000, 'a');
  std::vector<int32_t> ids;
  {
    const Tokenizer tokenizer(model_of(Algorithm::kUnigram, Kind::kNormal), "uni.model");
    DocumentEncoder encoder(tokenizer, small_limits());
    SKP_EXPECT_ERROR(encoder.add(text, ids), FileError,
                     "byte 2000: more than 1000 characters whose tokens all depend on what follows (uni.model)");
  }
  {
    const Tokenizer tokenizer(model_of(Algorithm::kWord, Kind::kNormal), "word.model");
    DocumentEncoder encoder(tokenizer, small_limits());
    SKP_EXPECT_ERROR(encoder.add(text, ids), FileError, "byte 2000: a word of more than 1000 bytes (word.model)");
  }
  {
    const Tokenizer tokenizer(model_of(Algorithm::kBytePair, Kind::kNormal), "bpe.model");
    DocumentEncoder encoder(tokenizer, small_limits());
    ids.clear();
    encoder.add(text, ids);
    encoder.finish(ids);
    EXPECT_EQ(ids, tokenizer.encode(text));
  }
  {
    const Tokenizer tokenizer(model_of(Algorithm::kBytePair, Kind::kUnused), "unused.model");
    DocumentEncoder encoder(tokenizer, small_limits());
    ids.clear();
    encoder.add(text.substr(0, 50), ids);
    encoder.finish(ids);
    EXPECT_EQ(ids, tokenizer.encode(text.substr(0, 50)));
    SKP_EXPECT_ERROR(encoder.add(text.substr(0, 51), ids), FileError,
                     "byte 51: a document of more than 50 bytes, and the tokenizer has unused pieces");
  }
}

}  // namespace
}  // namespace skippipe
