// SentencePiece models piece by piece, as no trainer would make them.
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

#include "tokenizer/sentencepiece_model.h"

namespace skippipe {

struct ModelWriter {
  SentencePieceModel::Algorithm algorithm = SentencePieceModel::Algorithm::kUnigram;
  bool spells_unknown = false, adds_space = true, space_is_suffix = false;
  bool removes_extra_spaces = true, escapes_spaces = true;
  std::string character_map;
  std::string pieces;  // serialized

  void add_piece(std::string_view text, float score, SentencePieceModel::Kind kind) {
    const auto bits = std::bit_cast<uint32_t>(score);
    std::string piece = bytes_field(1, text);
    piece += static_cast<char>(2 << 3 | 5);
    for (int shift = 0; shift < 32; shift += 8) piece += static_cast<char>(bits >> shift);
    pieces += bytes_field(1, piece + number_field(3, static_cast<uint64_t>(kind)));
  }
  std::string serialized() const {
    return pieces +
           bytes_field(2, number_field(3, static_cast<uint64_t>(algorithm)) + number_field(24, space_is_suffix) +
                              number_field(35, spells_unknown)) +
           bytes_field(3, bytes_field(2, character_map) + number_field(3, adds_space) +
                              number_field(4, removes_extra_spaces) + number_field(5, escapes_spaces));
  }

 private:
  static std::string varint(uint64_t value) {
    std::string result;
    for (; value >= 0x80; value >>= 7) result += static_cast<char>(value | 0x80);
    return result + static_cast<char>(value);
  }
  static std::string number_field(uint64_t number, uint64_t value) { return varint(number << 3) + varint(value); }
  static std::string bytes_field(uint64_t number, std::string_view value) {
    return varint(number << 3 | 2) + varint(value.size()) + std::string(value);
  }
};

}  // namespace skippipe
