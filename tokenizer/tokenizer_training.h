// Trains SentencePiece models.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "tokenizer/text_reader.h"

namespace skippipe {

struct TokenizerTraining {
  int32_t vocabulary = 0;  // pieces, with the 3 special ones (unknown, BOS, EOS) and the 256 bytes
  uint64_t seed = 0;       // chooses the lines to learn from where there are too many
  // Learn from about so many bytes; SentencePiece holds them in memory, several times over.
  uint64_t max_bytes = 512ull << 20;
};

// Learns a byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) from the reader's text. What is no piece is
// spelled in bytes, nothing is normalized, and no space is put in front, so that every UTF-8 text comes back as it was.
// A pure function of text and settings. Calls progress with the bytes read so far. Returns the serialized model.
// Throws FileError (the text), ConfigError (a vocabulary that the text cannot fill or that is too small).
std::string train_tokenizer(TextReader& text, const TokenizerTraining& settings,
                            const std::function<void(uint64_t bytes_read)>& progress = {});

}  // namespace skippipe
