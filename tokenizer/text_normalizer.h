// What SentencePiece does to a text before it looks for pieces, for texts that come in parts.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "tokenizer/byte_trie.h"
#include "tokenizer/sentencepiece_model.h"

namespace skippipe {

// The table of a model that replaces some texts by others (NFKC and the like): a double array over the bytes of the
// texts, then the replacements, each ended by a zero byte.
// Source: https://github.com/google/sentencepiece, src/normalizer.cc; https://github.com/s-yata/darts-clone.
class CharacterMap {
 public:
  // Throws FileError if the table is broken; name stands for the model. Empty: no rules. The table must outlive this.
  CharacterMap(std::string_view table, std::string name);

  struct Match {
    size_t bytes = 0;  // of the text that are replaced; 0: no rule
    std::string_view replacement;
    bool may_grow = false;  // all of the text begins a longer rule
  };
  // The longest rule for what the text begins with. Throws FileError if the table points outside of itself, or what it
  // replaces or puts there is not whole characters.
  Match longest(std::string_view text) const;

 private:
  uint32_t unit(size_t index) const;
  std::string_view replacement(size_t offset) const;
  [[noreturn]] void fail() const;

  std::string name_;
  std::string_view units_, replacements_;
};

// Its parts add up to what SentencePiece makes of the whole text. One thread; the model must outlive this.
class TextNormalizer {
 public:
  TextNormalizer(const SentencePieceModel& model, const ByteTrie& user_defined, const std::string& name);

  // Appends what no later text can change. `text` is valid UTF-8, in whole characters. Throws FileError (the model).
  void add(std::string_view text, std::string& normalized);
  // The end of the text. What is added next begins another text.
  void finish(std::string& normalized);

 private:
  struct Step {
    size_t bytes = 0;
    std::string_view replacement;
  };
  std::optional<Step> next_step(std::string_view text, bool ends) const;
  void take_steps(bool ends, std::string& normalized);
  void append(std::string_view replacement, std::string& normalized);
  void append_space(std::string& normalized);

  const SentencePieceModel& model_;
  const ByteTrie& user_defined_;
  CharacterMap characters_;
  std::string_view space_;
  bool is_plain_;  // every character is a step of its own, and no space is removed

  std::string rest_;           // not normalized yet
  bool started_ = false;       // something but spaces was there
  bool behind_space_ = false;  // which swallows the next ones
  size_t held_spaces_ = 0;     // that count only if the text goes on
  std::string spelled_;
};

}  // namespace skippipe
