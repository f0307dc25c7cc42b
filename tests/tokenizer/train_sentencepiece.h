// Models that SentencePiece's own trainer makes, with any of its options.
#pragma once

#include <gtest/gtest.h>
#include <sentencepiece_trainer.h>

#include <sstream>
#include <string>
#include <unordered_map>

#include "tokenizer/sentencepiece_model.h"

namespace skippipe {

// The lines of a text.
class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::string& text) : text_(text) {}
  bool done() const override { return !std::getline(text_, line_); }
  const std::string& value() const override { return line_; }
  void Next() override {}
  sentencepiece::util::Status status() const override { return {}; }

 private:
  mutable std::istringstream text_;
  mutable std::string line_;
};

inline std::string train_sentencepiece(const std::string& text, std::unordered_map<std::string, std::string> options) {
  Lines lines(text);
  options.insert({{"minloglevel", "2"}, {"num_threads", "2"}, {"hard_vocab_limit", "false"}});
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &model);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return model;
}

// The table of normalized characters of its default.
inline const std::string& nfkc_table() {
  static const std::string table =
      parse_sentencepiece_model(train_sentencepiece("a b c d\n", {{"model_type", "char"}, {"vocab_size", "8"}}), "m")
          .character_map;
  return table;
}

}  // namespace skippipe
