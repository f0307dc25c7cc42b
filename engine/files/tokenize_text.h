// Text files to token shards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>

#include "engine/files/token_shards.h"
#include "tokenizer/text_reader.h"
#include "tokenizer/tokenizer.h"

namespace skippipe {

inline constexpr char kTrainShard[] = "train.tokens";
inline constexpr char kValidationShard[] = "validation.tokens";

struct TokenizeOptions {
  double validation_share = 0.05;  // of the documents; 0: no validation shard
  uint64_t seed = 0;               // chooses them: a pure function of seed and the document's number
  bool bos = false;                // BOS before every document, besides the EOS behind it
};

struct TokenizedText {
  TokenShardInfo train;
  std::optional<TokenShardInfo> validation;
};

// Writes `folder`/train.tokens and `folder`/validation.tokens; memory stays bounded. Calls progress after every piece.
// Throws FileError (text, tokenizer, output), ConfigError (one of the two shards would be empty; nothing is written).
TokenizedText tokenize_text(const std::filesystem::path& folder, const Tokenizer& tokenizer, TextReader& text,
                            const TokenizeOptions& options,
                            const std::function<void(uint64_t bytes_read)>& progress = {});

}  // namespace skippipe
