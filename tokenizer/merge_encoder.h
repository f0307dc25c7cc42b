// What Hugging Face's `tokenizers` makes of a text with a tokenizer.json, as far as hugging_face_tokenizer.h writes
// them: to see that it makes of it what SentencePiece does.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace skippipe {

// Added tokens are cut out of the text first, of those that begin at a place the longest. What lies between is
// normalized by itself, and its characters, spelled in bytes or by the unknown token where the vocabulary lacks them,
// are merged: the pair whose merge comes first in the list, and of equal ones the leftmost. Immutable. Source:
// https://github.com/huggingface/tokenizers, tokenizers/src/models/bpe (model.rs, word.rs).
class MergeEncoder {
 public:
  // The text of a tokenizer.json that we wrote: no pre-tokenizer, normalizers Prepend and Replace, a BPE model.
  explicit MergeEncoder(const nlohmann::json& document);

  // Adds no BOS or EOS. `text` is valid UTF-8.
  std::vector<int32_t> encode(std::string_view text) const;

 private:
  struct Merge {
    size_t rank = 0;
    int32_t result = 0;
  };
  struct Normalizer {
    bool prepends = false;  // puts `content` before a text; else puts it in place of each `pattern`
    std::string pattern, content;
  };

  std::pair<size_t, int32_t> added_token_at(std::string_view text) const;  // its size and id; 0: none begins here
  std::string normalize(std::string_view text) const;
  std::vector<int32_t> symbols_of(std::string_view text) const;
  const Merge* merge_of(int32_t left, int32_t right) const;
  void append_merged(const std::vector<int32_t>& symbols, std::vector<int32_t>& ids) const;

  std::unordered_map<std::string, int32_t> vocabulary_;
  std::unordered_map<uint64_t, Merge> merges_;                                    // by the ids of left and right
  std::unordered_map<char, std::vector<std::pair<std::string, int32_t>>> added_;  // by their first byte
  std::vector<Normalizer> normalizers_;
  int32_t unknown_ = -1;
  bool byte_fallback_ = false;
};

}  // namespace skippipe
