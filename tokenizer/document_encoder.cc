#include "tokenizer/document_encoder.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "tokenizer/byte_trie.h"
#include "tokenizer/segmenter.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/text_normalizer.h"
#include "tokenizer/utf8.h"

namespace skippipe {
namespace {

using Algorithm = SentencePieceModel::Algorithm;
using Kind = SentencePieceModel::Kind;

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";

ByteTrie user_defined_of(const SentencePieceModel& model) {
  std::vector<std::pair<std::string, int32_t>> entries;
  for (size_t id = 0; id < model.pieces.size(); ++id)
    if (model.pieces[id].kind == Kind::kUserDefined)
      entries.emplace_back(model.pieces[id].text, static_cast<int32_t>(id));
  return ByteTrie(std::move(entries));
}

// Where SentencePiece's answer may depend on far-away text in more ways than the segmenter knows, why.
std::optional<std::string> reason_to_encode_at_once(const SentencePieceModel& model) {
  for (const auto& piece : model.pieces) {
    if (piece.kind == Kind::kUnused && model.algorithm == Algorithm::kBytePair)
      return "has unused pieces, which the whole text decides how to cut";
    if (piece.text.find('\0') != std::string::npos) return "has a piece with a zero byte";
    if (std::isnan(piece.score)) return "has a piece whose score is not a number";
  }
  return std::nullopt;
}

// Turns pieces into ids, as SentencePiece does behind its search.
class TokenWriter {
 public:
  TokenWriter(const SentencePieceModel& model, const std::string& name) : model_(model), name_(name) {
    for (size_t id = 0; id < model.pieces.size(); ++id) {
      const SentencePieceModel::Piece& piece = model.pieces[id];
      const bool is_reserved =
          piece.kind == Kind::kUnknown || piece.kind == Kind::kControl || piece.kind == Kind::kByte;
      (is_reserved ? reserved_ : pieces_)[piece.text] = static_cast<int32_t>(id);
      if (piece.kind == Kind::kUnknown) unknown_ = static_cast<int32_t>(id);
    }
  }

  // What PieceToId says.
  int32_t id_of(std::string_view text) const {
    if (const auto reserved = reserved_.find(text); reserved != reserved_.end()) return reserved->second;
    const auto piece = pieces_.find(text);
    return piece == pieces_.end() ? unknown_ : piece->second;
  }
  int32_t unknown() const { return unknown_; }

  void write(std::string_view text, int32_t id, std::vector<int32_t>& ids) {
    const Kind kind = model_.pieces.at(static_cast<size_t>(id)).kind;
    if (kind == Kind::kControl)
      throw FileError("{}: the text holds '{}', which is a control piece of one character", name_, text);
    const bool is_unknown = kind == Kind::kUnknown;
    if (is_unknown && model_.spells_unknown)
      for (const char byte : text) ids.push_back(id_of(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte))));
    else if (!is_unknown || !behind_unknown_)  // neighbours that are unknown are one token
      ids.push_back(id);
    behind_unknown_ = is_unknown;
  }
  void end_text() { behind_unknown_ = false; }

 private:
  const SentencePieceModel& model_;
  const std::string& name_;
  std::unordered_map<std::string_view, int32_t> reserved_, pieces_;
  int32_t unknown_ = 0;
  bool behind_unknown_ = false;
};

}  // namespace

struct DocumentEncoder::Parts {
  Parts(const Tokenizer& its_tokenizer, const Limits& its_limits)
      : tokenizer(its_tokenizer),
        limits(its_limits),
        model(parse_sentencepiece_model(tokenizer.serialized(), tokenizer.name())),
        whole_because(reason_to_encode_at_once(model)),
        user_defined(user_defined_of(model)),
        normalizer(model, user_defined, tokenizer.name()),
        writer(model, tokenizer.name()),
        segmenter(make_segmenter()) {}

  Segmenter make_segmenter() const {
    if (model.algorithm == Algorithm::kUnigram) return with_choice(UnigramChoice(model));
    return with_choice(BytePairChoice(model));
  }
  template <typename Choice>
  Segmenter with_choice(Choice choice) const {
    const size_t longest = choice.longest_piece_characters();
    return {std::move(choice), longest, limits.part};
  }

  void add(std::string_view text, std::vector<int32_t>& ids);
  void finish(std::vector<int32_t>& ids);
  void add_text(std::string_view text, std::vector<int32_t>& ids);
  void finish_text(std::vector<int32_t>& ids);
  void cut(bool ends, std::vector<int32_t>& ids);
  void take_symbol(std::string_view symbol, bool is_whole, std::vector<int32_t>& ids);
  void end_stretch(std::vector<int32_t>& ids);
  void end_word(std::vector<int32_t>& ids);
  Segmenter::Sink sink(std::vector<int32_t>& ids);
  [[noreturn]] void refuse(std::string_view cause) const {
    throw FileError("byte {}: {} ({}): split it into shorter documents (--document-lines, --document-separator)", bytes,
                    cause, tokenizer.name());
  }

  const Tokenizer& tokenizer;
  const Limits limits;
  const SentencePieceModel model;
  const std::optional<std::string> whole_because;
  const ByteTrie user_defined;
  TextNormalizer normalizer;
  TokenWriter writer;
  Segmenter segmenter;
  uint64_t bytes = 0;      // of the document that were added
  std::string whole;       // the document, if it must be encoded at once
  std::string normalized;  // not cut yet
  std::string word;        // not ended yet
};

void DocumentEncoder::Parts::add(std::string_view text, std::vector<int32_t>& ids) {
  bytes += text.size();
  if (whole_because) {
    if (whole.size() + text.size() > limits.whole_bytes)
      refuse(fmt::format("a document of more than {} bytes, and the tokenizer {}", limits.whole_bytes, *whole_because));
    whole += text;
    return;
  }
  for (size_t mark; tokenizer.spells_space_mark() && (mark = text.find(kSpaceMark)) != std::string_view::npos;) {
    add_text(text.substr(0, mark), ids);
    finish_text(ids);
    tokenizer.encode(kSpaceMark, ids);
    text.remove_prefix(mark + kSpaceMark.size());
  }
  add_text(text, ids);
}

void DocumentEncoder::Parts::finish(std::vector<int32_t>& ids) {
  if (whole_because)
    tokenizer.encode(std::exchange(whole, {}), ids);
  else
    finish_text(ids);
  bytes = 0;
}

void DocumentEncoder::Parts::add_text(std::string_view text, std::vector<int32_t>& ids) {
  // In small steps: the normalized text can be many times as long.
  constexpr size_t kStepBytes = 64 << 10;
  while (!text.empty()) {
    const std::string_view step = text.substr(0, utf8_boundary(text.substr(0, kStepBytes)));
    normalizer.add(step, normalized);
    cut(false, ids);
    text.remove_prefix(step.size());
  }
}

void DocumentEncoder::Parts::finish_text(std::vector<int32_t>& ids) {
  normalizer.finish(normalized);
  cut(true, ids);
  end_stretch(ids);
  writer.end_text();
}

Segmenter::Sink DocumentEncoder::Parts::sink(std::vector<int32_t>& ids) {
  if (model.algorithm == Algorithm::kUnigram)
    return [this, &ids](std::string_view text, int32_t id) {
      writer.write(text, id < tokenizer.vocabulary_size() ? id : writer.unknown(), ids);
    };
  return [this, &ids](std::string_view text, int32_t) { writer.write(text, writer.id_of(text), ids); };
}

// Takes the symbols that the normalized text begins with: characters, and where no unigrams are summed up,
// user-defined pieces.
void DocumentEncoder::Parts::cut(bool ends, std::vector<int32_t>& ids) {
  const bool has_symbols = model.algorithm == Algorithm::kBytePair || model.algorithm == Algorithm::kCharacter;
  std::string_view text = normalized;
  while (!text.empty()) {
    ByteTrie::Match match;
    if (has_symbols) match = user_defined.longest(text);
    if (match.may_grow && !ends) break;
    const size_t size = match.bytes > 0 ? match.bytes : first_character_bytes(text);
    take_symbol(text.substr(0, size), match.bytes > 0, ids);
    text.remove_prefix(size);
  }
  normalized.erase(0, normalized.size() - text.size());
}

void DocumentEncoder::Parts::take_symbol(std::string_view symbol, bool is_whole, std::vector<int32_t>& ids) {
  if (model.algorithm == Algorithm::kWord) {
    if (symbol == kSpaceMark) end_word(ids);
    word += symbol;
    if (word.size() > limits.undecided_characters)
      refuse(fmt::format("a word of more than {} bytes", limits.undecided_characters));
  } else if (is_whole || model.algorithm == Algorithm::kCharacter) {
    end_stretch(ids);
    writer.write(symbol, writer.id_of(symbol), ids);
  } else {
    segmenter.add_character(symbol, sink(ids));
    if (segmenter.undecided_characters() > limits.undecided_characters)
      refuse(
          fmt::format("more than {} characters whose tokens all depend on what follows", limits.undecided_characters));
  }
}

void DocumentEncoder::Parts::end_stretch(std::vector<int32_t>& ids) {
  end_word(ids);
  segmenter.finish(sink(ids));
}

void DocumentEncoder::Parts::end_word(std::vector<int32_t>& ids) {
  if (word.empty()) return;
  writer.write(word, writer.id_of(word), ids);
  word.clear();
}

DocumentEncoder::DocumentEncoder(const Tokenizer& tokenizer) : DocumentEncoder(tokenizer, Limits{}) {}
DocumentEncoder::DocumentEncoder(const Tokenizer& tokenizer, const Limits& limits)
    : parts_(std::make_unique<Parts>(tokenizer, limits)) {}
DocumentEncoder::~DocumentEncoder() = default;

void DocumentEncoder::add(std::string_view text, std::vector<int32_t>& ids) { parts_->add(text, ids); }
void DocumentEncoder::finish(std::vector<int32_t>& ids) { parts_->finish(ids); }

}  // namespace skippipe
