// Where texts begin and end for a model, and its tokens beyond the SentencePiece model: what the files that came with
// it say, as transformers reads them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/model/model_config.h"
#include "tokenizer/tokenizer.h"

namespace skippipe {

struct TextMarks {
  // Each of them ends a text; ascending. Those that generation_config.json names, or else config.json, or else the
  // tokenizer's EOS.
  std::vector<int32_t> ends;
  // Begins a text, if there is such a token: tokenizer_config.json's bos_token, or else the tokenizer's BOS.
  std::optional<int32_t> begin;
  bool begins_text = false;  // tokenizer_config.json's add_bos_token: tokenizing a text puts `begin` before it
  // Tokens of the model that are no pieces of the tokenizer: what they show as; nothing for special ones.
  std::map<int32_t, std::string> added;
  std::vector<std::string> ignored;  // ids that the model doesn't have, a line each
};

// `model`: the folder with generation_config.json, of the model whose config.json is `config`; `tokenizer_files`: that
// with tokenizer_config.json and the other files of the tokenizer; empty: it has no others. Each file may be missing.
// Throws FileError naming file and field that are wrong.
TextMarks read_text_marks(const std::filesystem::path& model, const ModelConfig& config, const Tokenizer& tokenizer,
                          const std::filesystem::path& tokenizer_files);

}  // namespace skippipe
