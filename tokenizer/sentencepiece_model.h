// What a SentencePiece `.model` holds, as far as other libraries must know it to cut text alike.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace skippipe {

struct SentencePieceModel {
  enum class Kind : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  enum class Algorithm : uint8_t { kUnigram = 1, kBytePair, kWord, kCharacter };

  struct Piece {
    std::string text;  // valid UTF-8; a space is written as U+2581
    float score = 0;   // of two pairs, the one with the higher score is merged first
    Kind kind = Kind::kNormal;
  };

  std::vector<Piece> pieces;  // a token's id is its place here
  Algorithm algorithm = Algorithm::kUnigram;
  bool spells_unknown = false;   // what is no piece is spelled in byte pieces
  std::string character_map;     // the table by which text is normalized, if any: text_normalizer.h reads it
  bool adds_space = true;        // before a text
  bool space_is_suffix = false;  // it adds that space behind a text instead
  bool removes_extra_spaces = true;
  bool escapes_spaces = true;  // a space becomes U+2581
};

// Reads a serialized ModelProto. Throws FileError; name stands for the file.
// Source: https://github.com/google/sentencepiece, src/sentencepiece_model.proto.
SentencePieceModel parse_sentencepiece_model(std::string_view serialized, const std::string& name);

}  // namespace skippipe
