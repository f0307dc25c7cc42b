// The tokens of documents of any length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace skippipe {

// Encodes a document that comes in parts: what it gives out adds up to Tokenizer::encode of the whole. One thread; the
// tokenizer must outlive this.
//
// Memory is bounded. What follows decides only on the last few tokens of nearly every text: what is decided is given
// out. Where a stretch of more than kMaxUndecidedCharacters stays undecided (a unigram model, and one character
// repeated), or more than that is one word of a word model, the document is refused: some 20 bytes a character are kept
// of it. A byte-pair model with unused pieces cuts such a piece as it was met last in the whole text, so that a text
// must be encoded at once: one of more than kMaxWholeBytes is refused, since SentencePiece 0.1.97 takes 60 to 240 bytes
// of memory for a byte.
class DocumentEncoder {
 public:
  static constexpr size_t kMaxUndecidedCharacters = 16 << 20;
  static constexpr size_t kMaxWholeBytes = 8 << 20;
  static constexpr size_t kPartCharacters = 1 << 12;

  struct Limits {
    size_t part = kPartCharacters;  // looks for what is decided whenever so many characters are not
    size_t undecided_characters = kMaxUndecidedCharacters;
    size_t whole_bytes = kMaxWholeBytes;
  };

  explicit DocumentEncoder(const Tokenizer& tokenizer);
  DocumentEncoder(const Tokenizer& tokenizer, const Limits& limits);
  ~DocumentEncoder();

  // Appends the ids of the text so far that no later text can change. `text` is valid UTF-8, in whole characters.
  // Throws FileError: the tokenizer, or a document that must be refused, with the bytes of it that were added.
  void add(std::string_view text, std::vector<int32_t>& ids);
  // The document's end. What is added next begins another one.
  void finish(std::vector<int32_t>& ids);

 private:
  struct Parts;
  const std::unique_ptr<Parts> parts_;
};

}  // namespace skippipe
