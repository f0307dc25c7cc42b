// The text of tokens that come one after another, in whole characters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace skippipe {

// What it gives out adds up to decode(before + tokens) without decode(before), and each piece is valid UTF-8.
// SentencePiece decodes a token by its neighbours: a space at the start of a text may be dropped, and bytes make a
// character together. So the newest tokens are decoded again with each one that comes, as few as that takes.
class TextStream {
 public:
  // `before` ends with a whole character. The tokenizer must outlive this.
  TextStream(const Tokenizer& tokenizer, std::span<const int32_t> before);

  // The text that the token completes; empty while a character lacks bytes. Throws FileError if it is not in the
  // vocabulary.
  std::string add(int32_t token);
  // The end of the text: U+FFFD for each byte of a character that stayed incomplete.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::vector<int32_t> window_;  // the newest tokens
  size_t given_ = 0;             // bytes of their text that were given out
  std::string bytes_;            // that the tokens at the window's end stand for, since the last whole character
};

}  // namespace skippipe
