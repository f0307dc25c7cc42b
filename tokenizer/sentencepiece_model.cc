#include "tokenizer/sentencepiece_model.h"

#include <bit>
#include <cstring>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace skippipe {
namespace {

static_assert(std::endian::native == std::endian::little, "protocol buffers are little-endian");

// Numbers of fields in sentencepiece_model.proto.
namespace field {
constexpr uint64_t kPieces = 1, kTrainer = 2, kNormalizer = 3;                                 // ModelProto
constexpr uint64_t kText = 1, kScore = 2, kKind = 3;                                           // SentencePiece
constexpr uint64_t kAlgorithm = 3, kSpaceIsSuffix = 24, kByteFallback = 35;                    // TrainerSpec
constexpr uint64_t kCharacterMap = 2, kAddsSpace = 3, kRemovesSpaces = 4, kEscapesSpaces = 5;  // NormalizerSpec
}  // namespace field

// The fields of one message, one after the other.
class MessageReader {
 public:
  MessageReader(std::string_view bytes, const std::string& name) : rest_(bytes), name_(name) {}

  // False at the message's end.
  bool next() {
    if (rest_.empty()) return false;
    const uint64_t key = take_varint();
    number_ = key >> 3;
    wire_type_ = key & 7;
    switch (wire_type_) {
      case 0:
        value_ = take_varint();
        break;
      case 1:
        bytes_ = take(8);
        break;
      case 2:
        bytes_ = take(take_varint());
        break;
      case 5:
        bytes_ = take(4);
        break;
      default:
        fail(fmt::format("a field of wire type {}", wire_type_));
    }
    return true;
  }

  uint64_t number() const { return number_; }
  uint64_t value() const { return expect(0), value_; }
  std::string_view bytes() const { return expect(2), bytes_; }
  float f32() const {
    expect(5);
    float result = 0;
    std::memcpy(&result, bytes_.data(), sizeof result);
    return result;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw FileError("{}: not a SentencePiece model: {}", name_, what);
  }

 private:
  void expect(uint64_t wire_type) const {
    if (wire_type_ != wire_type) fail(fmt::format("field {} is of wire type {}", number_, wire_type_));
  }
  std::string_view take(uint64_t size) {
    if (size > rest_.size()) fail("it ends within a field");
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  uint64_t take_varint() {
    uint64_t result = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      result |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return result;
    }
    fail("a number longer than 64 bits");
  }

  std::string_view rest_;
  const std::string& name_;
  uint64_t number_ = 0, wire_type_ = 0, value_ = 0;
  std::string_view bytes_;
};

// An enumeration's value from 1 to `last`.
template <typename Enum>
Enum read_enum(const MessageReader& reader, Enum last, const char* what) {
  const uint64_t value = reader.value();
  if (value < 1 || value > static_cast<uint64_t>(last)) reader.fail(fmt::format("{} {} is unknown", what, value));
  return static_cast<Enum>(value);
}

SentencePieceModel::Piece read_piece(MessageReader reader) {
  SentencePieceModel::Piece piece;
  while (reader.next()) {
    if (reader.number() == field::kText) piece.text = reader.bytes();
    if (reader.number() == field::kScore) piece.score = reader.f32();
    if (reader.number() == field::kKind) piece.kind = read_enum(reader, SentencePieceModel::Kind::kByte, "piece kind");
  }
  if (piece.text.empty() || valid_utf8_prefix(piece.text) != piece.text.size())
    reader.fail("a piece that is empty or not valid UTF-8");
  return piece;
}

void read_trainer(SentencePieceModel& model, MessageReader reader) {
  while (reader.next()) {
    if (reader.number() == field::kAlgorithm)
      model.algorithm = read_enum(reader, SentencePieceModel::Algorithm::kCharacter, "model type");
    if (reader.number() == field::kSpaceIsSuffix) model.space_is_suffix = reader.value() != 0;
    if (reader.number() == field::kByteFallback) model.spells_unknown = reader.value() != 0;
  }
}

void read_normalizer(SentencePieceModel& model, MessageReader reader) {
  while (reader.next()) {
    if (reader.number() == field::kCharacterMap) model.character_map = reader.bytes();
    if (reader.number() == field::kAddsSpace) model.adds_space = reader.value() != 0;
    if (reader.number() == field::kRemovesSpaces) model.removes_extra_spaces = reader.value() != 0;
    if (reader.number() == field::kEscapesSpaces) model.escapes_spaces = reader.value() != 0;
  }
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view serialized, const std::string& name) {
  SentencePieceModel model;
  MessageReader reader(serialized, name);
  while (reader.next()) {
    if (reader.number() == field::kPieces) model.pieces.push_back(read_piece({reader.bytes(), name}));
    if (reader.number() == field::kTrainer) read_trainer(model, {reader.bytes(), name});
    if (reader.number() == field::kNormalizer) read_normalizer(model, {reader.bytes(), name});
  }
  if (model.pieces.empty()) reader.fail("it has no pieces");
  return model;
}

}  // namespace skippipe
